// SPDX-License-Identifier: GPL-2.0-only
/*
 * Accepting by local listeners, and how workers give them back. Runs in the guest as
 * root with fastsocket.ko loaded; all traffic is on loopback, where the CPU that sends
 * a SYN also handles it. Usage: test_accept [TEST]
 */
#include "worker.h"

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

/* A dual-stack socket bound to :: also serves IPv4 connections by local listeners. */
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

/* Connections of a CPU without worker reach a worker all the same. */
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
	/* The event is level-triggered: it stays until the connection is taken. */
	assert_int_equal(epoll_wait(ep, &ev, 1, 0), 1);
	accept_and_greet(fd, 'x');
	assert_int_equal(epoll_wait(ep, &ev, 1, 0), 0);
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	close(client);
	close(ep);
	close(fd);
}

/* A connection at the local listener wakes a task that sleeps in epoll_wait(). */
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

/* The accepted socket is not the listener: it has the ordinary poll(). */
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
	assert_int_equal(readable(conn, 20000), 1);
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
	/* The signal comes again, in case the first one came before accept(). */
	struct itimerval often = { { .tv_usec = 300000 }, { .tv_usec = 300000 } };
	struct timeval limit = { .tv_usec = 200000 };
	struct timespec t0, t1;
	union address a;
	int fd = listener(AF_INET, &a), status, cpu;
	pid_t pid;

	(void)state;
	assert_ok(spawn(fd, 1));
	/*
	 * The child in accept() is woken by a connection at the local listener (CPU 1),
	 * and then by one at the socket to which the group gives a SYN of CPU 2.
	 */
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
	assert_ok(setitimer(ITIMER_REAL, &often, NULL));
	assert_errno(accept(fd, NULL, NULL), EINTR);
	assert_ok(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL));

	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	clock_gettime(CLOCK_MONOTONIC, &t1);
	/* accept() has waited: its timeout is in ticks, which may lag behind the clock. */
	assert_true((t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000 >= 100);
	close(fd);
}

/* Two workers on one CPU share its local listener, and each outlives the other. */
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

/* Another program changes a worker's affinity: no connection is lost. */
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

/* A killed worker's queued connections go to any process that accepts. */
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
	/*
	 * The timer has stolen connections that waited long, as on a slow kernel. The work
	 * item that finds the worker dead may move them, and count them a moment later.
	 */
	await(counter("moved", -1) + counter("stolen", -1) - before >= QUEUED);
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

/* Connections of a worker that lives and does not wait for any are not lost either. */
static void unwatched_is_moved(void **state)
{
	unsigned long long stolen = counter("stolen", -1);
	union address a;
	int fd = listener(AF_INET, &a), client;
	pid_t pid;

	(void)state;
	pid = worker(fd, 1, 'a', true);
	client = connect_on(1, &a);
	await(counter("stolen", -1) != stolen);
	assert_int_equal(counter("stolen", -1), stolen + 1);
	accept_and_greet(fd, 'p');
	assert_int_equal(greeting(client), 'p');
	close(client);
	kill_worker(pid);
	close(fd);
}

/*
 * Of two workers on one CPU the second one ends. The module still sees that the first one
 * computes, and does not give its connection to the worker of another CPU, which sleeps.
 */
static void colleague_is_known(void **state)
{
	unsigned long long overdue = counter("overdue", -1);
	volatile int *go = mmap(NULL, sizeof(*go), PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	union address a;
	int fd = listener(AF_INET, &a), client, ready, i;
	pid_t computes, ended, sleeps;
	char greeted;

	(void)state;
	assert_ptr_not_equal(go, MAP_FAILED);
	set_nonblock(fd);
	computes = fork_until_ready(&ready);
	if (!computes) {
		if (spawn(fd, 1) || write(ready, "r", 1) != 1)
			_exit(1);
		while (!*go)
			;
		if (readable(fd, 5000) == 1)
			accept_and_greet(fd, 'c');
		_exit(0);
	}
	ended = worker(fd, 1, 'e', true);
	sleeps = fork_until_ready(&ready);
	if (!sleeps)
		serve_by_epoll(fd, 0, 's', ready);
	kill_worker(ended);
	write_file(PARAM "steal_after_ms", "1000");
	client = connect_on(1, &a);
	for (i = 0; i < 100 && counter("overdue", -1) == overdue; i++)
		usleep(50000);
	*go = 1;
	greeted = greeting(client);
	write_file(PARAM "steal_after_ms", "8");
	assert_int_equal(greeted, 'c');
	close(client);
	assert_int_equal(waitpid(computes, NULL, 0), computes);
	kill_worker(sleeps);
	munmap((void *)go, sizeof(*go));
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

	if (epoll_wait(w->epoll, &event, 1, 20000) != 1)
		return NULL;
	conn = accept(w->fd, NULL, NULL);
	if (conn >= 0 && write(conn, "t", 1) == 1)
		close(conn);
	return NULL;
}

/* One thread registers the listener, and another waits at the same epoll instance. */
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
 * Connections whose handshake completes only after the worker's death are not lost
 * either: with TCP_DEFER_ACCEPT, when the client's first data arrives.
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

/* Closing the device retires the local listener; the CLOSE call does so, too, and closes. */
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

/* A child that exits does not retire its parent, and the parent does not retire a child. */
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
	/* The parent is also a worker, since otherwise the child would be the only one. */
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
	/*
	 * The parent was pinned when the child became a worker, and is released with
	 * the last listener.
	 */
	assert_int_equal(pinned_cpu(), -1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
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
		T(colleague_is_known),
		T(threads_share_an_epoll),
		T(retire_and_spawn_again),
		T(closing_retires),
		T(forks_are_apart),
		T(spawn_all),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
