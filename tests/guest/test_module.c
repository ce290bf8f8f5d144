// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module, seen through its ioctls and the sockets it touches. Runs in the
 * guest as root with fastsocket.ko loaded; all traffic is on loopback, where a
 * SYN is handled on the CPU that sends it. Usage: test_module [TEST]
 */
#include <linux/net_tstamp.h>

#include "device.h"

/*
 * A worker process: spawns on cpu, says so, then accepts for ever and greets
 * with its letter; or, lazy, accepts nothing.
 */
static pid_t worker(int fd, int cpu, char letter, bool lazy)
{
	int ready[2];
	pid_t pid;
	char byte;

	assert_ok(pipe(ready));
	pid = fork();
	assert_ok(pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (spawn(fd, cpu) || write(ready[1], "r", 1) != 1)
			_exit(1);
		while (lazy)
			pause();
		for (;;) {
			int conn = accept(fd, NULL, NULL);

			/* Another process may have made the listener non-blocking. */
			if (conn < 0 && errno == EAGAIN && readable(fd, -1) == 1)
				continue;
			if (conn < 0 || write(conn, &letter, 1) != 1)
				_exit(2);
			close(conn);
		}
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void kill_worker(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static int setup(void **state)
{
	(void)state;
	unpin();
	write_file(PARAM "enable_listen_spawn", "2");
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dev);
	return 0;
}

/* --- the ioctls, right and wrong ------------------------------------------ */

static void ioctl_unknown(void **state)
{
	struct fsocket_ioctl_arg arg = { 0 };

	(void)state;
	assert_errno(ioctl(dev, _IO(0xf5, 0), &arg), ENOTTY);
	assert_errno(ioctl(dev, _IO(0xf5, 5), &arg), ENOTTY);
	assert_errno(ioctl(dev, _IO(0xf5, 12), &arg), ENOTTY);
	assert_errno(ioctl(dev, FIONREAD, &arg), ENOTTY);
}

static void ioctl_wild_pointers(void **state)
{
	static const unsigned int calls[] = { 1, 2, 3, 4, 6, 7, 9, 10, 11 };
	void *guarded = mmap(NULL, 8192, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned int i;

	(void)state;
	assert_true(guarded != MAP_FAILED);
	assert_ok(mprotect((char *)guarded + 4096, 4096, PROT_NONE));
	for (i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		unsigned long cmd = _IO(0xf5, calls[i]);

		assert_errno(ioctl(dev, cmd, NULL), EFAULT);
		assert_errno(ioctl(dev, cmd, (void *)1), EFAULT);
		assert_errno(ioctl(dev, cmd, (void *)0xffffffff81000000UL), EFAULT);
		assert_errno(ioctl(dev, cmd, (char *)guarded + 4096 - 8), EFAULT);
	}
	munmap(guarded, 8192);
}

static void ioctl_bad_fds(void **state)
{
	static const unsigned int calls[] = { 2, 3, 6, 7, 9, 10 };
	int pipes[2];
	unsigned int i;

	(void)state;
	assert_ok(pipe(pipes));
	for (i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		unsigned long cmd = _IO(0xf5, calls[i]);

		assert_errno(call_dev(cmd, -1), EBADF);
		assert_errno(call_dev(cmd, 1000), EBADF);
		assert_errno(call_dev(cmd, pipes[0]), ENOTSOCK);
		assert_errno(call_dev(cmd, dev), ENOTSOCK);
	}
	assert_errno(call_dev(FSOCKET_IOC_CLOSE, 1000), EBADF);
	assert_ok(call_dev(FSOCKET_IOC_CLOSE, pipes[0]));
	assert_errno(fcntl(pipes[0], F_GETFD), EBADF);
	close(pipes[1]);
}

static void ioctl_socket(void **state)
{
	struct fsocket_ioctl_arg arg = { 0 };
	int fd;

	(void)state;
	arg.op.socket_op.family = AF_INET;
	arg.op.socket_op.type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
	fd = ioctl(dev, FSOCKET_IOC_SOCKET, &arg);
	assert_ok(fd);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);

	arg.op.socket_op.family = 12345;
	assert_errno(ioctl(dev, FSOCKET_IOC_SOCKET, &arg), EAFNOSUPPORT);
	arg.op.socket_op.family = AF_INET;
	arg.op.socket_op.type = 999999;
	assert_errno(ioctl(dev, FSOCKET_IOC_SOCKET, &arg), EINVAL);
	arg.op.socket_op.type = SOCK_STREAM;
	arg.op.socket_op.protocol = IPPROTO_UDP;
	assert_errno(ioctl(dev, FSOCKET_IOC_SOCKET, &arg), EPROTONOSUPPORT);
}

static void ioctl_listen(void **state)
{
	struct fsocket_ioctl_arg arg = { .backlog = 16 };
	union address a;
	int udp = socket(AF_INET, SOCK_DGRAM, 0), val;
	socklen_t len = sizeof(val);

	(void)state;
	arg.fd = udp;
	assert_errno(ioctl(dev, FSOCKET_IOC_LISTEN, &arg), EOPNOTSUPP);
	close(udp);

	arg.fd = bound_socket(AF_INET, &a);
	assert_ok(ioctl(dev, FSOCKET_IOC_LISTEN, &arg));
	assert_ok(getsockopt(arg.fd, SOL_SOCKET, SO_ACCEPTCONN, &val, &len));
	assert_int_equal(val, 1);
	close(arg.fd);

	/* Unbound: the kernel binds it, as listen(2) does. */
	arg.fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(ioctl(dev, FSOCKET_IOC_LISTEN, &arg));
	close(arg.fd);
}

static void ioctl_accept(void **state)
{
	struct fsocket_ioctl_arg arg = { 0 };
	union address a, peer;
	int len = sizeof(peer), conn, client;

	(void)state;
	arg.fd = listener(AF_INET, &a);
	set_nonblock(arg.fd);
	assert_errno(ioctl(dev, FSOCKET_IOC_ACCEPT, &arg), EAGAIN);

	client = connect_on(0, &a);
	arg.op.accept_op.sockaddr = &peer;
	arg.op.accept_op.sockaddr_len = &len;
	arg.op.accept_op.flags = SOCK_CLOEXEC | SOCK_NONBLOCK;
	conn = ioctl(dev, FSOCKET_IOC_ACCEPT, &arg);
	assert_ok(conn);
	assert_int_equal(len, sizeof(peer.in));
	assert_int_equal(peer.in.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_int_equal(fcntl(conn, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(conn, F_GETFL) & O_NONBLOCK);
	close(conn);
	close(client);

	client = connect_on(0, &a);
	arg.op.accept_op.sockaddr_len = (int *)8;
	assert_errno(ioctl(dev, FSOCKET_IOC_ACCEPT, &arg), EFAULT);
	arg.op.accept_op.flags = ~0;
	assert_errno(ioctl(dev, FSOCKET_IOC_ACCEPT, &arg), EINVAL);
	close(client);
	close(arg.fd);
}

static void ioctl_shutdown(void **state)
{
	struct fsocket_ioctl_arg arg = { 0 };
	union address a;

	(void)state;
	arg.fd = listener(AF_INET, &a);
	arg.op.shutdown_op.how = 77;
	assert_errno(ioctl(dev, FSOCKET_IOC_SHUTDOWN_LISTEN, &arg), EINVAL);
	arg.op.shutdown_op.how = SHUT_RDWR;
	assert_ok(ioctl(dev, FSOCKET_IOC_SHUTDOWN_LISTEN, &arg));
	assert_errno(ioctl(dev, FSOCKET_IOC_SHUTDOWN_LISTEN, &arg), ENOTCONN);
	close(arg.fd);
}

static void spawn_wrong_sockets(void **state)
{
	union address a;
	int fd, client, conn;

	(void)state;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(spawn(fd, -1), EINVAL);
	close(fd);
	fd = bound_socket(AF_INET, &a);
	assert_errno(spawn(fd, -1), EINVAL);
	assert_ok(listen(fd, 5));
	client = connect_on(0, &a);
	assert_errno(spawn(client, -1), EINVAL);
	conn = accept(fd, NULL, NULL);
	assert_errno(spawn(conn, -1), EINVAL);
	assert_int_equal(pinned_cpu(), -1);
	close(conn);
	close(client);
	close(fd);
}

static void spawn_wrong_cpus(void **state)
{
	static const int cpus[] = { -2, 8, 64, 4096, 0x7fffffff, -0x7fffffff - 1 };
	union address a;
	int fd = listener(AF_INET, &a), last = sysconf(_SC_NPROCESSORS_CONF) - 1;
	char path[64];
	unsigned int i;
	int ret;

	(void)state;
	for (i = 0; i < sizeof(cpus) / sizeof(*cpus); i++)
		if (cpus[i] < 0 || cpus[i] > last)
			assert_errno(spawn(fd, cpus[i]), EINVAL);

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", last);
	write_file(path, "0");
	ret = spawn(fd, last);
	write_file(path, "1");
	assert_int_equal(ret, -1);
	unpin();

	/* Another CPU than those the worker may use. */
	pin(1);
	assert_errno(spawn(fd, 2), EINVAL);
	assert_ok(spawn(fd, 1));
	close(fd);
}

static void spawn_modes(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a);

	(void)state;
	write_file(PARAM "enable_listen_spawn", "0");
	assert_errno(spawn(fd, -1), EPERM);
	assert_errno(spawn(fd, 1), EPERM);

	write_file(PARAM "enable_listen_spawn", "1");
	assert_errno(spawn(fd, -1), EPERM);
	assert_errno(spawn(fd, 1), EPERM);
	assert_int_equal(pinned_cpu(), -1);
	pin(2);
	assert_ok(spawn(fd, -1));
	assert_ok(retire(fd));

	write_file(PARAM "enable_listen_spawn", "2");
	unpin();
	assert_ok(spawn(fd, 3));
	assert_int_equal(pinned_cpu(), 3);
	close(fd);
}

static void parameters_checked(void **state)
{
	int fd = open(PARAM "enable_listen_spawn", O_WRONLY);

	(void)state;
	assert_errno(write(fd, "3", 1), EINVAL);
	assert_errno(write(fd, "-1", 2), EINVAL);
	assert_errno(write(fd, "x", 1), EINVAL);
	close(fd);
	fd = open(PARAM "enable_fastsocket_debug", O_WRONLY);
	assert_errno(write(fd, "6", 1), EINVAL);
	assert_int_equal(write(fd, "5", 1), 1);
	assert_int_equal(write(fd, "3", 1), 1);
	close(fd);
}

/* Workers that leave the choice to the module get a CPU each. */
static void spawn_chooses_free_cpus(void **state)
{
	int ncpu = sysconf(_SC_NPROCESSORS_ONLN), fd, cpu, status;
	union address a;
	pid_t pids[ncpu];

	(void)state;
	fd = listener(AF_INET, &a);
	for (cpu = 0; cpu < ncpu; cpu++)
		pids[cpu] = worker(fd, -1, 'a' + cpu, false);
	for (cpu = 0; cpu < ncpu; cpu++) {
		cpu_set_t set;
		int other, client;

		sched_getaffinity(pids[cpu], sizeof(set), &set);
		assert_int_equal(CPU_COUNT(&set), 1);
		for (other = 0; other < cpu; other++) {
			cpu_set_t theirs;

			sched_getaffinity(pids[other], sizeof(theirs), &theirs);
			assert_false(CPU_EQUAL(&set, &theirs));
		}
		/* A connection made on its CPU is that worker's. */
		for (other = 0; !CPU_ISSET(other, &set); other++)
			;
		client = connect_on(other, &a);
		assert_int_equal(greeting(client), 'a' + cpu);
		close(client);
	}
	for (cpu = 0; cpu < ncpu; cpu++)
		assert_int_equal(waitpid(pids[cpu], &status, WNOHANG), 0);
	for (cpu = 0; cpu < ncpu; cpu++)
		kill_worker(pids[cpu]);
	close(fd);
}

static void spawn_twice_is_harmless(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client;
	unsigned long long before;

	(void)state;
	before = counter("spawn", -1);
	assert_ok(spawn(fd, 2));
	assert_ok(spawn(fd, 2));
	assert_ok(spawn(fd, -1));
	assert_int_equal(counter("spawn", -1), before + 1);
	/* And a worker that moves takes its local listener along. */
	unpin();
	assert_ok(spawn(fd, 3));
	assert_int_equal(pinned_cpu(), 3);
	client = connect_on(3, &a);
	before = counter("accept_local", 3);
	accept_and_greet(fd, 'x');
	assert_int_equal(counter("accept_local", 3), before + 1);
	close(client);
	close(fd);
}

/* --- accepting ------------------------------------------------------------- */

static void accept_is_local(int family)
{
	unsigned long long local = counter("accept_local", 1), other = counter("accept_global", -1);
	union address a;
	int fd = listener(family, &a), i;

	assert_ok(spawn(fd, 1));
	for (i = 0; i < 50; i++) {
		int client = connect_on(1, &a);

		assert_int_equal(readable(fd, 0), 1);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	assert_int_equal(counter("accept_local", 1) - local, 50);
	assert_int_equal(counter("accept_global", -1) - other, 0);
	close(fd);
}

static void accept_local_ipv4(void **state)
{
	(void)state;
	accept_is_local(AF_INET);
}

static void accept_local_ipv6(void **state)
{
	(void)state;
	accept_is_local(AF_INET6);
}

/* A dual-stack socket bound to :: serves IPv4 connections locally too. */
static void accept_local_dual_stack(void **state)
{
	unsigned long long local = counter("accept_local", 1);
	union address a = { .in6 = { .sin6_family = AF_INET6 } }, b = { 0 };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET6, SOCK_STREAM, 0), client;

	(void)state;
	assert_ok(bind(fd, &a.sa, sizeof(a.in6)));
	assert_ok(listen(fd, 10));
	assert_ok(getsockname(fd, &a.sa, &len));
	assert_ok(spawn(fd, 1));
	b.in.sin_family = AF_INET;
	b.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	b.in.sin_port = a.in6.sin6_port;
	client = connect_on(1, &b);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	assert_int_equal(counter("accept_local", 1) - local, 1);
	close(fd);
}

/* A CPU without worker: its connections reach one all the same. */
static void accept_from_foreign_cpu(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i;

	(void)state;
	assert_ok(spawn(fd, 1));
	for (i = 0; i < 50; i++) {
		int client = connect_on(2, &a);

		assert_int_equal(readable(fd, 1000), 1);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	close(fd);
}

static void accept_eagain_and_epoll(void **state)
{
	struct epoll_event ev = { .events = EPOLLIN };
	union address a;
	int fd = listener(AF_INET, &a), ep = epoll_create1(0), client;

	(void)state;
	set_nonblock(fd);
	assert_ok(spawn(fd, 1));
	assert_ok(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	assert_int_equal(epoll_wait(ep, &ev, 1, 0), 0);
	client = connect_on(1, &a);
	assert_int_equal(epoll_wait(ep, &ev, 1, 1000), 1);
	/* Level-triggered: until it is taken. */
	assert_int_equal(epoll_wait(ep, &ev, 1, 0), 1);
	accept_and_greet(fd, 'x');
	assert_int_equal(epoll_wait(ep, &ev, 1, 0), 0);
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	close(client);
	close(ep);
	close(fd);
}

/* epoll_wait() asleep is woken by a connection at the local listener. */
static void epoll_wakes(void **state)
{
	struct epoll_event ev = { .events = EPOLLIN };
	union address a;
	int fd = listener(AF_INET, &a), ep = epoll_create1(0), status;
	pid_t pid;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_ok(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	pid = fork();
	if (!pid) {
		usleep(300000);
		_exit(greeting(connect_on(1, &a)) == 'x' ? 0 : 1);
	}
	assert_int_equal(epoll_wait(ep, &ev, 1, 10000), 1);
	accept_and_greet(fd, 'x');
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(ep);
	close(fd);
}

/* The accepted socket is not the listener: its poll() is its own. */
static void accepted_is_plain(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, more, conn, val = 7;
	socklen_t len = sizeof(val);

	(void)state;
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	more = connect_on(1, &a);
	assert_int_equal(readable(fd, 0), 1);
	assert_int_equal(readable(conn, 0), 0);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(readable(conn, 1000), 1);
	assert_ok(getsockopt(conn, SOL_SOCKET, SO_REUSEPORT, &val, &len));
	assert_int_equal(val, 0);
	assert_ok(getsockopt(conn, SOL_SOCKET, SO_ACCEPTCONN, &val, &len));
	assert_int_equal(val, 0);
	close(more);
	close(conn);
	close(client);
	close(fd);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void blocking_accept(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct timeval limit = { .tv_usec = 200000 };
	struct timespec t0, t1;
	union address a;
	int fd = listener(AF_INET, &a), status, cpu;
	pid_t pid;

	(void)state;
	assert_ok(spawn(fd, 1));
	/* Woken by the local listener (CPU 1), and by whichever 2 falls to. */
	for (cpu = 1; cpu <= 2; cpu++) {
		pid = fork();
		if (!pid) {
			usleep(300000);
			_exit(greeting(connect_on(cpu, &a)) == 'x' ? 0 : 1);
		}
		accept_and_greet(fd, 'x');
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
	}

	sigaction(SIGALRM, &action, NULL);
	alarm(1);
	assert_errno(accept(fd, NULL, NULL), EINTR);

	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	assert_in_range((t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000,
			190, 3000);
	close(fd);
}

/* Two workers on one CPU share its local listener, and survive one another. */
static void workers_share_a_cpu(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i;
	pid_t one, two;

	(void)state;
	one = worker(fd, 1, 'a', true);
	two = worker(fd, 1, 'b', false);
	for (i = 0; i < 10; i++) {
		int client = connect_on(1, &a);

		assert_int_equal(greeting(client), 'b');
		close(client);
	}
	kill_worker(one);
	for (i = 0; i < 10; i++) {
		int client = connect_on(1, &a);

		assert_int_equal(greeting(client), 'b');
		close(client);
	}
	one = worker(fd, 1, 'a', false);
	kill_worker(two);
	for (i = 0; i < 10; i++) {
		int client = connect_on(1, &a);

		assert_int_equal(greeting(client), 'a');
		close(client);
	}
	kill_worker(one);
	close(fd);
}

/* Somebody changes a worker's affinity: nothing is stranded. */
static void worker_moves_away(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i;

	(void)state;
	assert_ok(spawn(fd, 1));
	for (i = 0; i < 3; i++) {
		int client = connect_on(1, &a);

		if (i == 1)
			pin(2);
		if (i == 2)
			unpin();
		assert_int_equal(readable(fd, 0), 1);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	close(fd);
}

/* --- retiring --------------------------------------------------------------- */

#define QUEUED 20

/* A killed worker's queued connections go to whoever accepts. */
static void death_loses_nothing(void **state)
{
	unsigned long long before = counter("moved", -1) + counter("stolen", -1);
	union address a;
	int fd = listener(AF_INET, &a), clients[QUEUED], i;
	pid_t pid;

	(void)state;
	pid = worker(fd, 1, 'a', true);
	for (i = 0; i < QUEUED; i++)
		clients[i] = connect_on(1, &a);
	kill_worker(pid);
	/* What waited for long, as a slow kernel makes it, has been stolen before. */
	assert_int_equal(counter("moved", -1) + counter("stolen", -1) - before, QUEUED);
	for (i = 0; i < QUEUED; i++) {
		assert_int_equal(readable(fd, 1000), 1);
		accept_and_greet(fd, 'p');
	}
	for (i = 0; i < QUEUED; i++) {
		assert_int_equal(greeting(clients[i]), 'p');
		close(clients[i]);
	}
	close(fd);
}

/* Nor those of a worker that lives and does not wait for any. */
static void unwatched_is_moved(void **state)
{
	unsigned long long stolen = counter("stolen", -1);
	union address a;
	int fd = listener(AF_INET, &a), client, i;
	pid_t pid;

	(void)state;
	pid = worker(fd, 1, 'a', true);
	client = connect_on(1, &a);
	for (i = 0; i < 50 && counter("stolen", -1) == stolen; i++)
		usleep(100000);
	assert_int_equal(counter("stolen", -1), stolen + 1);
	accept_and_greet(fd, 'p');
	assert_int_equal(greeting(client), 'p');
	close(client);
	kill_worker(pid);
	close(fd);
}

struct waiting_thread {
	int epoll, fd;
};

static void *wait_and_greet(void *arg)
{
	struct waiting_thread *w = arg;
	struct epoll_event event;
	int conn;

	if (epoll_wait(w->epoll, &event, 1, 5000) != 1)
		return NULL;
	conn = accept(w->fd, NULL, NULL);
	if (conn >= 0 && write(conn, "t", 1) == 1)
		close(conn);
	return NULL;
}

/* One thread registers the listener, another waits at the same epoll instance. */
static void threads_share_an_epoll(void **state)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct waiting_thread w;
	pthread_t thread;
	union address a;
	int client;

	(void)state;
	w.fd = listener(AF_INET, &a);
	set_nonblock(w.fd);
	w.epoll = epoll_create1(0);
	assert_ok(w.epoll);
	assert_ok(spawn(w.fd, 1));
	assert_ok(epoll_ctl(w.epoll, EPOLL_CTL_ADD, w.fd, &event));
	assert_int_equal(pthread_create(&thread, NULL, wait_and_greet, &w), 0);
	usleep(300000);
	client = connect_on(1, &a);
	assert_int_equal(greeting(client), 't');
	pthread_join(thread, NULL);
	close(client);
	close(w.epoll);
	close(w.fd);
}

/*
 * Nor are those lost whose handshake completes only after the death: with
 * TCP_DEFER_ACCEPT, when the client's first data arrive.
 */
static void death_loses_no_handshake(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), clients[QUEUED], i, seconds = 30;
	pid_t pid;

	(void)state;
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)));
	pid = worker(fd, 1, 'a', true);
	for (i = 0; i < QUEUED; i++)
		clients[i] = connect_on(1, &a);
	kill_worker(pid);
	assert_int_equal(readable(fd, 0), 0);
	for (i = 0; i < QUEUED; i++) {
		assert_int_equal(write(clients[i], "x", 1), 1);
		assert_int_equal(readable(fd, 5000), 1);
		accept_and_greet(fd, 'p');
		assert_int_equal(greeting(clients[i]), 'p');
		close(clients[i]);
	}
	close(fd);
}

static void retire_and_spawn_again(void **state)
{
	unsigned long long spawned = counter("spawn", 1), retired = counter("retire", 1);
	union address a;
	int fd = listener(AF_INET, &a), i, client;

	(void)state;
	assert_ok(retire(fd));
	for (i = 0; i < 20; i++) {
		unpin();
		assert_ok(spawn(fd, 1));
		client = connect_on(1, &a);
		assert_ok(retire(fd));
		assert_int_equal(readable(fd, 0), 1);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	assert_int_equal(counter("spawn", 1) - spawned, 20);
	assert_int_equal(counter("retire", 1) - retired, 20);
	close(fd);
}

/* Closing the device retires; so does the CLOSE call, and it closes. */
static void closing_retires(void **state)
{
	unsigned long long retired = counter("retire", 1);
	union address a;
	int fd = listener(AF_INET, &a), copy = dup(fd);

	(void)state;
	assert_ok(spawn(fd, 1));
	close(dev);
	assert_int_equal(counter("retire", 1) - retired, 1);
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(spawn(fd, 1));
	assert_ok(call_dev(FSOCKET_IOC_CLOSE, fd));
	assert_errno(fcntl(fd, F_GETFD), EBADF);
	assert_int_equal(counter("retire", 1) - retired, 2);
	assert_ok(spawn(copy, 1));
	close(copy);
	assert_int_equal(counter("retire", 1) - retired, 3);
}

/* A child that exits does not retire its parent, nor the other way round. */
static void forks_are_apart(void **state)
{
	unsigned long long retired = counter("retire", -1);
	union address a;
	int fd = listener(AF_INET, &a), client;
	pid_t pid;

	(void)state;
	assert_ok(spawn(fd, 1));
	pid = fork();
	if (!pid)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(counter("retire", -1), retired);
	unpin();
	pid = worker(fd, 2, 'c', false);
	close(dev);
	assert_int_equal(counter("retire", -1), retired + 1);
	client = connect_on(2, &a);
	assert_int_equal(greeting(client), 'c');
	close(client);
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	kill_worker(pid);
	close(fd);
}

static void spawn_all(void **state)
{
	struct fsocket_ioctl_arg arg = { .backlog = 64 };
	union address a[3];
	int fds[3], i, status;
	unsigned long long spawned;
	pid_t pid;

	(void)state;
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_ALL_LISTEN, NULL));
	for (i = 0; i < 3; i++) {
		arg.fd = fds[i] = bound_socket(i == 2 ? AF_INET6 : AF_INET, &a[i]);
		assert_ok(ioctl(dev, FSOCKET_IOC_LISTEN, &arg));
	}
	/* The parent is a worker, too, or the child would be the only one. */
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_ALL_LISTEN, NULL));
	assert_int_equal(pinned_cpu(), -1);
	spawned = counter("spawn", -1);
	pid = fork();
	if (!pid) {
		if (ioctl(dev, FSOCKET_IOC_SPAWN_ALL_LISTEN, NULL) || pinned_cpu() < 0)
			_exit(1);
		for (i = 0; i < 3; i++) {
			int client = connect_on(pinned_cpu(), &a[i]);

			accept_and_greet(fds[i], 'x');
			if (greeting(client) != 'x')
				_exit(2);
		}
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counter("spawn", -1) - spawned, 6);
	for (i = 0; i < 3; i++)
		close(fds[i]);
	/* Pinned with the child's coming, free again with the last listener. */
	assert_int_equal(pinned_cpu(), -1);
}

/* --- what the socket means stays what it was ----------------------------------- */

static int int_option(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int val = -1;

	assert_ok(getsockopt(fd, level, name, &val, &len));
	return val;
}

/* Accepted connections have the options of the listener, as ever. */
static void options_inherited(void **state)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ SOL_SOCKET, SO_RCVBUF, 50000 },
		{ SOL_SOCKET, SO_SNDBUF, 60000 },
		{ SOL_SOCKET, SO_RCVLOWAT, 3 },
		{ SOL_SOCKET, SO_OOBINLINE, 1 },
		{ SOL_SOCKET, SO_REUSEADDR, 1 },
		{ SOL_SOCKET, SO_MARK, 9 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 77 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 7 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 5 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, 4321 },
		{ IPPROTO_TCP, TCP_LINGER2, 11 },
		{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1111 },
		{ IPPROTO_IP, IP_TOS, 0x10 },
		{ IPPROTO_IP, IP_TTL, 33 },
	};
	struct linger linger = { .l_onoff = 1, .l_linger = 5 }, got;
	unsigned int i, n = sizeof(options) / sizeof(*options), later = 7;
	int values[2][sizeof(options) / sizeof(*options)], round;
	char name[16];

	(void)state;
	/* On an ordinary listener, then on a local one: the same. */
	for (round = 0; round < 2; round++) {
		union address a;
		int fd = bound_socket(AF_INET, &a), client, conn;
		socklen_t len = sizeof(linger);

		for (i = 0; i < later; i++)
			assert_ok(setsockopt(fd, options[i].level, options[i].name,
					     &options[i].value, sizeof(int)));
		assert_ok(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, len));
		assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
		assert_ok(listen(fd, 16));
		if (round)
			assert_ok(spawn(fd, 1));
		/* These come after the spawn. */
		for (; i < n; i++)
			assert_ok(setsockopt(fd, options[i].level, options[i].name,
					     &options[i].value, sizeof(int)));
		client = connect_on(1, &a);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		for (i = 0; i < n; i++)
			values[round][i] = int_option(conn, options[i].level, options[i].name);
		assert_ok(getsockopt(conn, SOL_SOCKET, SO_LINGER, &got, &len));
		assert_memory_equal(&got, &linger, sizeof(linger));
		len = sizeof(name);
		assert_ok(getsockopt(conn, IPPROTO_TCP, TCP_CONGESTION, name, &len));
		assert_string_equal(name, "reno");
		close(client);
		close(conn);
		close(fd);
		unpin();
	}
	for (i = 0; i < n; i++)
		if (values[0][i] != values[1][i])
			fail_msg("option %d/%d: ordinary %d, local %d", options[i].level,
				 options[i].name, values[0][i], values[1][i]);
}

static void obstacles_refused(void **state)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog filter = { .len = 1, .filter = code };
	struct tcp_md5sig md5 = { .tcpm_keylen = 4, .tcpm_key = "key" };
	union address a;
	int fd, one = 1, client;

	(void)state;
	fd = bound_socket(AF_INET, &a);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(listen(fd, 5));
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter,
			     sizeof(filter)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	memcpy(&md5.tcpm_addr, &a, sizeof(a.in));
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &md5, sizeof(md5)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	/* Set after the spawn: back to the shared queue, and nothing lost. */
	fd = listener(AF_INET, &a);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one)));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	client = connect_on(1, &a);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

static void obstacle_refused(int family, int level, int name, const void *value,
			     socklen_t len)
{
	union address a;
	int fd = listener(family, &a), client;

	assert_ok(setsockopt(fd, level, name, value, len));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	close(fd);

	/* 6.1 learns of what is set later from the next spawn. */
	fd = listener(family, &a);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	assert_ok(setsockopt(fd, level, name, value, len));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

/* What a connection inherits from its listener and cannot be copied. */
static void more_obstacles_refused(void **state)
{
	static const unsigned char nop[4] = { IPOPT_NOOP, IPOPT_NOOP, IPOPT_NOOP, IPOPT_END };
	static const unsigned char padding[8] = { 0, 0, 1, 4 };
	struct sock_txtime txtime = { .clockid = CLOCK_MONOTONIC };
	int one = 1, stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;

	(void)state;
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one));
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof(stamps));
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TXTIME, &txtime, sizeof(txtime));
	obstacle_refused(AF_INET, IPPROTO_IP, IP_OPTIONS, nop, sizeof(nop));
	obstacle_refused(AF_INET6, IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof(padding));
}

/* The group does not open the port to others. */
static void port_stays_taken(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), other, one = 1;

	(void)state;
	assert_ok(spawn(fd, 1));
	other = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	assert_errno(bind(other, &a.sa, sizeof(a.in)), EADDRINUSE);
	assert_ok(retire(fd));
	assert_errno(bind(other, &a.sa, sizeof(a.in)), EADDRINUSE);
	close(fd);
	assert_ok(bind(other, &a.sa, sizeof(a.in)));
	close(other);
}

/* Two listeners of one port, as a server makes them for two workers. */
static void own_reuseport_group(void **state)
{
	union address a;
	socklen_t len = sizeof(int);
	int fds[2], late, one = 1, val = 0, client, conn;

	(void)state;
	memset(&a, 0, sizeof(a));
	a.in.sin_family = AF_INET;
	a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a.in.sin_port = htons(7080);
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
		assert_ok(bind(fds[i], &a.sa, sizeof(a.in)));
		assert_ok(listen(fds[i], 64));
		set_nonblock(fds[i]);
		assert_ok(spawn(fds[i], i));
		unpin();
	}
	for (int i = 0; i < 5; i++) {
		client = connect_on(1, &a);
		conn = accept(fds[1], NULL, NULL);
		assert_ok(conn);
		assert_ok(getsockopt(conn, SOL_SOCKET, SO_REUSEPORT, &val, &len));
		assert_int_equal(val, 1);
		close(conn);
		close(client);
		client = connect_on(0, &a);
		assert_errno(accept(fds[1], NULL, NULL), EAGAIN);
		accept_and_greet(fds[0], 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	/* The port is as open as before. */
	late = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(setsockopt(late, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(bind(late, &a.sa, sizeof(a.in)));
	assert_ok(listen(late, 64));
	close(fds[0]);
	close(fds[1]);
	client = connect_on(1, &a);
	accept_and_greet(late, 'y');
	assert_int_equal(greeting(client), 'y');
	close(client);
	close(late);
}

static void shutdown_and_listen_again(void **state)
{
	union address a;
	socklen_t len = sizeof(a);
	int fd = listener(AF_INET, &a), client, queued;

	(void)state;
	assert_ok(spawn(fd, 1));
	queued = connect_on(1, &a);
	assert_ok(shutdown(fd, SHUT_RDWR));
	assert_errno(accept(fd, NULL, NULL), EINVAL);
	/* What was queued is reset, as it is without us. */
	assert_int_equal(greeting(queued), 0);
	close(queued);
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(connect(client, &a.sa, sizeof(a.in)), ECONNREFUSED);
	close(client);
	/* The kernel had chosen the port: it chooses anew. */
	assert_ok(listen(fd, 10));
	assert_ok(getsockname(fd, &a.sa, &len));
	client = connect_on(1, &a);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

/* A backlog changed by a second listen() holds for local listeners. */
static void backlog_follows(void **state)
{
	unsigned long long drops = netstat("ListenOverflows");
	union address a;
	int fd = listener(AF_INET, &a), clients[8], i;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_ok(listen(fd, 2));
	for (i = 0; i < 8; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		pin(1);
		connect(clients[i], &a.sa, sizeof(a.in));
	}
	usleep(100000);
	assert_true(netstat("ListenOverflows") > drops);
	for (i = 0; i < 8; i++)
		close(clients[i]);
	close(fd);
}

/* --- the stock lookup's business ------------------------------------------------- */

/* SYNs for 4-tuples in TIME_WAIT: no connection waits for a second one. */
static void time_wait_reuse(void **state)
{
	unsigned long long again = netstat("TCPSynRetrans");
	union address a, from = { 0 };
	int fd = listener(AF_INET, &a), i, one = 1;
	struct timespec t0, t1;

	(void)state;
	assert_ok(spawn(fd, 1));
	from.in.sin_family = AF_INET;
	from.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	from.in.sin_port = htons(23456);
	for (i = 0; i < 300; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0), conn;
		char byte;

		assert_ok(setsockopt(client, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
		assert_ok(bind(client, &from.sa, sizeof(from.in)));
		clock_gettime(CLOCK_MONOTONIC, &t0);
		assert_ok(connect(client, &a.sa, sizeof(a.in)));
		clock_gettime(CLOCK_MONOTONIC, &t1);
		assert_in_range((t1.tv_sec - t0.tv_sec) * 1000 +
				(t1.tv_nsec - t0.tv_nsec) / 1000000, 0, 900);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		/* The server closes first: its end goes into TIME_WAIT. */
		assert_ok(shutdown(conn, SHUT_WR));
		assert_int_equal(read(client, &byte, 1), 0);
		close(client);
		assert_int_equal(read(conn, &byte, 1), 0);
		close(conn);
	}
	assert_int_equal(netstat("TCPSynRetrans"), again);
	close(fd);
}

static void syn_cookies(void **state)
{
	unsigned long long received = netstat("SyncookiesRecv");
	unsigned long long local = counter("accept_local", -1);
	union address a;
	int fd = listener(AF_INET, &a), i;

	(void)state;
	write_file("/proc/sys/net/ipv4/tcp_syncookies", "2");
	assert_ok(spawn(fd, 1));
	for (i = 0; i < 50; i++) {
		int client = connect_on(1, &a);

		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	write_file("/proc/sys/net/ipv4/tcp_syncookies", "1");
	assert_int_equal(netstat("SyncookiesRecv") - received, 50);
	assert_int_equal(counter("accept_local", -1) - local, 50);
	close(fd);
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_ok(ioctl(fd, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	assert_ok(ioctl(fd, SIOCSIFFLAGS, &ifr));
	close(fd);
}

/* Counters are the namespace's own, and connections hold it. */
static void network_namespaces(void **state)
{
	unsigned long long outside = counter("accept_local", -1);
	int status;
	pid_t pid = fork();

	(void)state;
	if (!pid) {
		union address a;
		int fd, client, conn;
		char byte;

		if (unshare(CLONE_NEWNET))
			_exit(1);
		loopback_up();
		fd = listener(AF_INET, &a);
		if (spawn(fd, 1))
			_exit(2);
		client = connect_on(1, &a);
		conn = accept(fd, NULL, NULL);
		/* /proc/net is /proc/self/net: of the new namespace. */
		if (conn < 0 || counter("accept_local", -1) != 1)
			_exit(3);
		close(fd);
		if (unshare(CLONE_NEWNET))
			_exit(4);
		/* The first namespace lives on in these two sockets. */
		if (write(client, "x", 1) != 1 || read(conn, &byte, 1) != 1)
			_exit(5);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counter("accept_local", -1), outside);
}

/* --- hotplug, storms, unloading ------------------------------------------------------- */

static void cpu_goes_offline(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i, last = sysconf(_SC_NPROCESSORS_CONF) - 1;
	char path[64];
	pid_t pid;

	(void)state;
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", last);
	pid = worker(fd, last, 'w', false);
	write_file(path, "0");
	for (i = 0; i < 20; i++) {
		int client = connect_on(i % last, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	write_file(path, "1");
	for (i = 0; i < 20; i++) {
		int client = connect_on(last, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	kill_worker(pid);
	close(fd);
}

/* Workers spawn, retire, fork, exit and die at random while clients connect. */
static void storm(void **state)
{
	int ncpu = sysconf(_SC_NPROCESSORS_ONLN), fd, i, round;
	pid_t keeper, clients[4], pids[12] = { 0 };
	union address a;
	int status;

	(void)state;
	srand(getpid());
	fd = listener(AF_INET, &a);
	keeper = worker(fd, 0, 'k', false);
	for (i = 0; i < 4; i++) {
		clients[i] = fork();
		if (!clients[i]) {
			int failed = 0, n;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (n = 0; n < 400; n++) {
				int conn = connect_on((n + i) % ncpu, &a);
				char got = greeting(conn);

				/* Nothing: its worker was killed with it in hand. */
				if (got != 'k' && got != 'w')
					failed++;
				close(conn);
			}
			_exit(failed);
		}
	}
	for (round = 0; round < 60; round++) {
		i = rand() % 12;
		if (pids[i]) {
			if (rand() % 2) {
				kill(pids[i], SIGKILL);
			} else {
				kill(pids[i], SIGTERM);
			}
			waitpid(pids[i], NULL, 0);
		}
		pids[i] = fork();
		if (!pids[i]) {
			int how = rand() % 4, n;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			unpin();
			set_nonblock(fd);
			for (n = 0; n < 50; n++) {
				struct pollfd p = { .fd = fd, .events = POLLIN };
				int conn;

				if (!n || how == 1)
					spawn(fd, rand() % ncpu);
				if (poll(&p, 1, 20) == 1) {
					conn = accept4(fd, NULL, NULL, 0);
					if (conn >= 0 && write(conn, "w", 1) == 1)
						close(conn);
				}
				if (how == 2)
					retire(fd);
				if (how == 3 && !(n % 10) && !fork())
					_exit(0);
				if (how == 1)
					unpin();
			}
			_exit(0);
		}
		usleep(30000);
	}
	for (i = 0; i < 12; i++)
		if (pids[i]) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
		}
	for (i = 0; i < 4; i++) {
		assert_int_equal(waitpid(clients[i], &status, 0), clients[i]);
		assert_true(WIFEXITED(status));
		/* At most one connection per killed worker can die with it. */
		assert_in_range(WEXITSTATUS(status), 0, 60);
	}
	kill_worker(keeper);
	close(fd);
}

static int unload(void)
{
	return syscall(SYS_delete_module, "fastsocket", O_NONBLOCK);
}

/* Refused while in use; accepted connections outlive the module. */
static void unload_when_unused(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn, waited;
	char byte;

	(void)state;
	assert_errno(unload(), EAGAIN);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	close(dev);
	assert_errno(unload(), EAGAIN);
	close(fd);
	for (waited = 0; unload() && waited < 50; waited++)
		usleep(100000);
	assert_true(waited < 50);
	assert_int_equal(access(FSOCKET_DEVICE, F_OK), -1);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(read(conn, &byte, 1), 1);
	assert_int_equal(readable(conn, 0), 0);
	close(conn);
	close(client);
	assert_ok(load_module(getenv("FASTSOCKET_KO"), ""));
	for (waited = 0; access(FSOCKET_DEVICE, F_OK) && waited < 50; waited++)
		usleep(100000);
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
}

#define POOL_TRACE "/sys/kernel/tracing/events/page_pool/page_pool_release/enable"

/* How many pages the skb pools still had in use when they were destroyed, as traced. */
static int pages_in_use(void)
{
	FILE *trace = fopen("/sys/kernel/tracing/trace", "r");
	int pools = 0, pages = 0, count;
	char line[512], *at;

	assert_non_null(trace);
	while (fgets(line, sizeof(line), trace)) {
		at = strstr(line, " inflight=");
		if (!at || sscanf(at, " inflight=%d", &count) != 1)
			continue;
		pools++;
		pages += count;
	}
	fclose(trace);
	assert_true(pools > 0);
	return pages;
}

/*
 * Packets that were copied on a CPU which then receives nothing are freed by the time
 * that the module has gone, although it was left to that CPU to free them.
 */
static void idle_cpu_keeps_no_page(void **state)
{
	unsigned long long copied;
	int fd, client, conn, i, waited;
	union address a;
	char byte = 'x';

	(void)state;
	fd = listener(AF_INET, &a);
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	/* Which brings redispatch along. */
	write_file(PARAM "enable_receive_cpu_selection", "1");
	write_file(PARAM "enable_skb_pool", "1");
	copied = counter("skb_pool_copy", 3);
	for (i = 0; i < 10; i++) {
		/* This CPU sends, so what comes for it is copied there. */
		pin(3);
		assert_int_equal(write(conn, &byte, 1), 1);
		pin(6);
		assert_int_equal(read(client, &byte, 1), 1);
		assert_int_equal(write(client, &byte, 1), 1);
		assert_int_equal(readable(conn, 2000), 1);
		/* And freed from here. */
		pin(5);
		assert_int_equal(read(conn, &byte, 1), 1);
	}
	assert_true(counter("skb_pool_copy", 3) - copied >= 5);
	close(open("/sys/kernel/tracing/trace", O_WRONLY | O_TRUNC));
	/* It stays on: each switch patches running code, which the emulator may not survive. */
	write_file(POOL_TRACE, "1");
	write_file(PARAM "enable_skb_pool", "0");
	write_file(PARAM "enable_receive_cpu_selection", "0");
	write_file(PARAM "enable_rps_framework", "0");
	close(conn);
	close(client);
	close(fd);
	close(dev);
	for (waited = 0; unload() && waited < 50; waited++)
		usleep(100000);
	assert_true(waited < 50);
	assert_ok(load_module(getenv("FASTSOCKET_KO"), ""));
	for (waited = 0; access(FSOCKET_DEVICE, F_OK) && waited < 50; waited++)
		usleep(100000);
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
	assert_int_equal(pages_in_use(), 0);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(ioctl_unknown),
		T(ioctl_wild_pointers),
		T(ioctl_bad_fds),
		T(ioctl_socket),
		T(ioctl_listen),
		T(ioctl_accept),
		T(ioctl_shutdown),
		T(spawn_wrong_sockets),
		T(spawn_wrong_cpus),
		T(spawn_modes),
		T(parameters_checked),
		T(spawn_chooses_free_cpus),
		T(spawn_twice_is_harmless),
		T(accept_local_ipv4),
		T(accept_local_ipv6),
		T(accept_local_dual_stack),
		T(accept_from_foreign_cpu),
		T(accept_eagain_and_epoll),
		T(epoll_wakes),
		T(accepted_is_plain),
		T(blocking_accept),
		T(workers_share_a_cpu),
		T(worker_moves_away),
		T(death_loses_nothing),
		T(death_loses_no_handshake),
		T(unwatched_is_moved),
		T(threads_share_an_epoll),
		T(retire_and_spawn_again),
		T(closing_retires),
		T(forks_are_apart),
		T(spawn_all),
		T(options_inherited),
		T(obstacles_refused),
		T(more_obstacles_refused),
		T(port_stays_taken),
		T(own_reuseport_group),
		T(shutdown_and_listen_again),
		T(backlog_follows),
		T(time_wait_reuse),
		T(syn_cookies),
		T(network_namespaces),
		T(cpu_goes_offline),
		T(storm),
		T(unload_when_unused),
		T(idle_cpu_keeps_no_page),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
