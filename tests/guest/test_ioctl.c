// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's ioctls and parameters, used rightly and wrongly. Runs in the guest as
 * root with fastsocket.ko loaded; all traffic is on loopback, where the CPU that sends
 * a SYN also handles it. Usage: test_ioctl [TEST]
 */
#include "worker.h"

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

	/* For an unbound socket the kernel chooses the port, as listen(2) does. */
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

	/* The worker may not use this CPU. */
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

/* Each worker that leaves the choice to the module gets a CPU of its own. */
static void spawn_chooses_free_cpus(void **state)
{
	int ncpu = sysconf(_SC_NPROCESSORS_ONLN), fd, cpu, status;
	union address a;
	pid_t pids[ncpu];

	(void)state;
	patience(true);
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
		/* That worker gets a connection that was made on its CPU. */
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
	patience(false);
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
	/* A worker that moves takes its local listener along. */
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
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
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
