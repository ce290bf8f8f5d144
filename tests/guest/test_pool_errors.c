// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket pool's errors are those of accept4(). Like test_module it runs in the
 * guest, as root, on loopback. Usage: test_pool_errors [TEST]
 *
 * Debian's kernels have no fault injection, so limits (RLIMIT_NOFILE, fs.file-max) make
 * allocations fail.
 */
#include "pool.h"

#include <sys/resource.h>

/* --- errors ----------------------------------------------------- */

/* Each way to fail, its error, and whether the connection is still there. */
static void errors_of(accept_fn *fn, int family, char *log, size_t size)
{
	FILE *out = fmemopen(log, size, "w");
	struct sockaddr_storage addr;
	union address a;
	int fd, conn, client, unix_fd[2], udp, next;
	socklen_t len = sizeof(addr), bad = -1;
	struct rlimit old, low;

	assert_non_null(out);
	setvbuf(out, NULL, _IONBF, 0);
#define TRY(what, call)	fprintf(out, what ": %d\n", (call) < 0 ? errno : 0)
	fd = listener(family, &a);
	set_nonblock(fd);
	TRY("nothing there", fn(fd, NULL, NULL, 0));
	client = connect_on(2, &a);
	TRY("flags", fn(fd, NULL, NULL, 1));
	TRY("closed", fn(999, NULL, NULL, 0));
	TRY("no descriptor", fn(-1, NULL, NULL, 0));
	TRY("no socket", fn(dev, NULL, NULL, 0));
	assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_fd));
	TRY("unix", fn(unix_fd[0], NULL, NULL, 0));
	udp = socket(family, SOCK_DGRAM, 0);
	TRY("UDP", fn(udp, NULL, NULL, 0));
	TRY("not listening", fn(client, NULL, NULL, 0));

	/* All descriptors are in use, so nothing is taken from the queue. */
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	low = old;
	next = dup(fd);
	close(next);
	low.rlim_cur = next;
	assert_ok(setrlimit(RLIMIT_NOFILE, &low));
	TRY("RLIMIT_NOFILE", fn(fd, NULL, NULL, 0));
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	assert_int_equal(readable(fd, 0), 1);
	conn = fn(fd, NULL, NULL, 0);
	TRY("then", conn);
	assert_talks(client, conn);
	close(conn);
	close(client);

	/* The address cannot be written, so the connection is lost. */
	client = connect_on(2, &a);
	TRY("address", fn(fd, (void *)8, &len, 0));
	assert_int_equal(readable(client, 5000), 1);
	close(client);
	client = connect_on(2, &a);
	TRY("length", fn(fd, (void *)&addr, (void *)8, 0));
	assert_int_equal(readable(client, 5000), 1);
	close(client);
	client = connect_on(2, &a);
	TRY("negative length", fn(fd, (void *)&addr, &bad, 0));
	close(client);
	client = connect_on(2, &a);
	len = 5;
	memset(&addr, 0xee, sizeof(addr));
	conn = fn(fd, (void *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	fprintf(out, "cut: %d, %x %x, flags %x %x\n", len, addr.ss_family,
		((unsigned char *)&addr)[5], fcntl(conn, F_GETFD), fcntl(conn, F_GETFL));
	close(conn);
	close(client);
	TRY("empty again", fn(fd, NULL, NULL, 0));
	assert_ok(shutdown(fd, SHUT_RDWR));
	TRY("shut down", fn(fd, NULL, NULL, 0));
#undef TRY
	close(fd);
	close(udp);
	close(unix_fd[0]);
	close(unix_fd[1]);
	fclose(out);
}

static void errors(void **state)
{
	static char stock[4096], pooled[4096];
	int round;

	(void)state;
	write_file(SIZE, "8");
	for (round = 0; round < 2; round++) {
		errors_of(accept4, round ? AF_INET6 : AF_INET, stock, sizeof(stock));
		counts();
		errors_of(pool_accept4, round ? AF_INET6 : AF_INET, pooled, sizeof(pooled));
		assert_string_equal(pooled, stock);
		assert_non_null(strstr(stock, "address: 14"));
		assert_int_equal(counts().conns, 5);
	}
}

/* fs.file-max is reached: neither a descriptor nor the connection is lost. */
static void no_files(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;
	char max[32] = "";
	FILE *file = fopen("/proc/sys/fs/file-max", "r");

	(void)state;
	assert_non_null(fgets(max, sizeof(max), file));
	fclose(file);
	write_file(SIZE, "8");
	for (i = 0; i < 3; i++) {
		/* The second and third connection get a socket of the pool. */
		client = connect_on(2, &a);
		write_file("/proc/sys/fs/file-max", "1");
		/* Root may exceed the limit. */
		assert_ok(setresuid(-1, 1000, 0));
		assert_errno(pool_accept4(fd, NULL, NULL, 0), ENFILE);
		assert_ok(setresuid(-1, 0, 0));
		write_file("/proc/sys/fs/file-max", max);
		assert_int_equal(readable(fd, 0), 1);
		conn = pool_accept4(fd, NULL, NULL, 0);
		assert_ok(conn);
		assert_talks(client, conn);
		close(conn);
		close(client);
	}
	close(fd);
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* A blocking accept is woken by a connection, interrupted, restarted, timed out. */
static void blocking(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm };
	/* The signal comes again if it came before the call. */
	struct itimerval often = { { .tv_usec = 200000 }, { .tv_usec = 200000 } };
	struct timeval limit = { .tv_usec = 100000 };
	union address a;
	int fd = listener(AF_INET, &a), conn, status;
	pid_t other;

	(void)state;
	write_file(SIZE, "8");
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &often, NULL));
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EINTR);

	action.sa_flags = SA_RESTART;
	assert_ok(sigaction(SIGALRM, &action, NULL));
	other = fork();
	if (!other) {
		usleep(600000);
		_exit(greeting(connect_on(3, &a)) != 'x');
	}
	conn = pool_accept4(fd, NULL, NULL, 0);
	assert_ok(conn);
	assert_ok(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL));
	assert_int_equal(write(conn, "x", 1), 1);
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	close(conn);

	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EAGAIN);
	close(fd);
}

/* A listener with local ones also serves through the pool. */
static void local_listeners(void **state)
{
	struct fsocket_ioctl_arg arg = { .op.spawn_op.cpu = 2 };
	unsigned long long local = counter("accept_local", 2);
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;

	(void)state;
	write_file(SIZE, "8");
	arg.fd = fd;
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
	set_nonblock(fd);
	counts();
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EAGAIN);
	for (i = 0; i < 10; i++) {
		conn = pool_pair(fd, &a, &client);
		assert_talks(conn, client);
		close(conn);
		close(client);
	}
	assert_int_equal(counter("accept_local", 2) - local, 10);
	assert_counts(.from_slab = 1, .from_pool = 10, .to_pool = 11, .in_pool = 1, .conns = 10);
	close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(errors),
		T(no_files),
		T(blocking),
		T(local_listeners),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
