// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: calls of a program's have the same results as without the
 * library. So all tests pass without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_calls [NAME]
 */
#include "server.h"

#include <limits.h>

/* Returns a socket with SO_REUSEPORT, which is bound to the port of the listener. */
static int beside(int type, in_addr_t address)
{
	union address b = a;
	int other = socket(AF_INET, type, 0);

	assert_ok(other);
	set_reuseport(other);
	b.in.sin_addr.s_addr = htonl(address);
	assert_ok(bind(other, &b.sa, address_len(&b)));
	return other;
}

/* A UDP socket at the same port, as a server of HTTP/3 has it, keeps its SO_REUSEPORT. */
static void test_reuseport_of_udp(void **state)
{
	int other = beside(SOCK_DGRAM, INADDR_LOOPBACK);

	(void)state;
	assert_int_equal(reuseport(other), 1);
	close(other);
}

static void test_reuseport_at_another_address(void **state)
{
	int other = beside(SOCK_STREAM, INADDR_LOOPBACK + 1), conn;

	(void)state;
	assert_int_equal(reuseport(other), 1);
	/* A socket that does not listen may also connect. */
	conn = connect(other, &a.sa, address_len(&a));
	assert_ok(conn);
	assert_int_equal(reuseport(other), 1);
	close(other);
}

/* A connection, a copy of it, and one that has ended read what the listener reads. */
static void test_reuseport_of_connections(void **state)
{
	int client = connect_on(0, &a), conn, copy;
	struct linger reset = { .l_onoff = 1 };
	char byte;

	(void)state;
	assert_int_equal(readable(fd, 20000), 1);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	copy = dup(conn);
	assert_ok(copy);
	assert_int_equal(reuseport(conn), 0);
	assert_int_equal(reuseport(copy), 0);
	assert_ok(setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)));
	close(client);
	assert_errno(read(conn, &byte, 1), ECONNRESET);
	close(conn);
	assert_int_equal(reuseport(copy), 0);
	set_reuseport(copy);
	assert_int_equal(reuseport(copy), 1);
	close(copy);
}

/* Notes about a closed connection do not hold for the next file of the same number. */
static void take_number_of_a_connection(int other)
{
	int client = connect_on(0, &a), conn, copy;

	assert_int_equal(readable(fd, 20000), 1);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	close(conn);
	copy = dup(other);
	assert_int_equal(copy, conn);
	assert_int_equal(reuseport(copy), 1);
	close(copy);
	close(client);
}

static void test_number_of_a_connection(void **state)
{
	int other = socket(AF_INET, SOCK_DGRAM, 0);

	(void)state;
	assert_ok(other);
	set_reuseport(other);
	take_number_of_a_connection(other);
	close(other);
	other = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(other);
	set_reuseport(other);
	assert_ok(connect(other, &a.sa, address_len(&a)));
	close(accept(fd, NULL, NULL));
	take_number_of_a_connection(other);
	close(other);
}

/* Timeouts that the kernel does not take, in memory of several kinds, with and without an event. */
static void test_pwait2_invalid(void **state)
{
	static const struct timespec bad[] = {
		{ .tv_nsec = 2000000000 }, { .tv_nsec = 1000000000 }, { .tv_nsec = -1 },
		{ .tv_sec = -1 }, { .tv_sec = -1, .tv_nsec = 999999999 }, { .tv_sec = LONG_MIN } };
	int epoll = instance(), client = -1;
	struct epoll_event event;

	(void)state;
	for (int ready = 0; ready < 2; ready++) {
		for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
			struct timespec here = bad[i];

			assert_errno(epoll_pwait2(epoll, &event, 1, &bad[i], NULL), EINVAL);
			assert_errno(epoll_pwait2(epoll, &event, 1, &here, NULL), EINVAL);
		}
		assert_errno(epoll_pwait2(epoll, &event, 1, (void *)1, NULL), EFAULT);
		if (!ready)
			client = connect_on(0, &a);
	}
	assert_int_equal(epoll_pwait2(epoll, &event, 1, NULL, NULL), 1);
	close(client);
	close(epoll);
}

static long nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000 + now.tv_nsec;
}

/* No wait ends before its time, and the shortest of many takes less than a millisecond. */
static void test_pwait2_duration(void **state)
{
	const struct timespec times[] = { { .tv_nsec = 100000 }, { .tv_nsec = 2100000 } };
	int epoll = instance();
	struct epoll_event event;

	(void)state;
	for (int i = 0; i < 2; i++) {
		long wanted = times[i].tv_nsec, least = LONG_MAX, took;

		for (int n = 0; n < 300; n++) {
			took = nanoseconds();
			assert_int_equal(epoll_pwait2(epoll, &event, 1, &times[i], NULL), 0);
			took = nanoseconds() - took;
			least = took < least ? took : least;
		}
		assert_true(least >= wanted);
		assert_true(least < (wanted / 1000000 + 1) * 1000000);
	}
	close(epoll);
}

static void listen_again(void)
{
	if (shutdown(fd, SHUT_RD) || listen(fd, 16))
		_exit(1);
}

static void test_listen_after_shutdown(void **state)
{
	int epoll, client;
	pid_t other;

	(void)state;
	/* A socket keeps only the port that it has asked for. */
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_ok(fd);
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 16));
	other = start_workers(&epoll, listen_again);
	tell(1);
	await_stage(2);
	stop_workers(other, epoll);
	/* Some connections may have come before. */
	while ((client = accept(fd, NULL, NULL)) >= 0)
		close(client);
	assert_int_equal(errno, EAGAIN);
	client = connect_on(0, &a);
	assert_int_equal(readable(fd, 20000), 1);
	close(accept(fd, NULL, NULL));
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	close(client);
}

static void disconnect(void)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };

	if (connect(fd, &nobody, sizeof(nobody)))
		_exit(1);
}

static void test_listener_is_disconnected(void **state)
{
	int epoll;
	pid_t other;

	(void)state;
	other = start_workers(&epoll, disconnect);
	tell(1);
	await_stage(2);
	for (int i = 0; i < 4; i++)
		assert_true(refused(i % 2));
	stop_workers(other, epoll);
}

static void shut_down_wrongly(void)
{
	tell(3);
	await_stage(4);
	assert_errno(shutdown(fd, 9), EINVAL);
	assert_errno(accept4(fd, NULL, NULL, 0x1234), EINVAL);
}

/* What fails changes nothing: the connections that wait are not lost. */
static void test_wrong_arguments(void **state)
{
	int epoll, clients[8];
	pid_t other;

	(void)state;
	other = start_workers(&epoll, shut_down_wrongly);
	tell(1);
	await_stage(3);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	tell(4);
	await_stage(2);
	await_answers(epoll, clients);
	assert_errno(accept4(fd, NULL, NULL, 0x1234), EINVAL);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	stop_workers(other, epoll);
}

/* Asserts the errors of a socket that is in no group which the program has made. */
static void assert_no_program(int socket, int detaching)
{
	struct sock_filter zero = { BPF_RET | BPF_K, 0, 0, 0 };
	struct sock_fprog program = { .len = 1, .filter = &zero };
	int none = 0;

	assert_errno(setsockopt(socket, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program,
				sizeof(program)), EINVAL);
	assert_errno(setsockopt(socket, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &none, sizeof(none)),
		     detaching);
}

static void nothing(void)
{
}

/* The program sees no BPF program while the library has attached one, by any descriptor. */
static void test_program_of_bpf(void **state)
{
	int epoll, copy, client, conn;
	pid_t other;

	(void)state;
	assert_no_program(fd, EINVAL);
	copy = dup(fd);
	assert_ok(copy);
	other = start_workers(&epoll, nothing);
	assert_no_program(fd, EINVAL);
	assert_no_program(copy, EINVAL);
	tell(1);
	await_stage(2);
	stop_workers(other, epoll);
	while ((client = accept(fd, NULL, NULL)) >= 0)
		close(client);
	client = connect_on(0, &a);
	assert_int_equal(readable(fd, 20000), 1);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	assert_no_program(conn, EINVAL);
	set_reuseport(fd);
	assert_no_program(fd, ENOENT);
	close(conn);
	close(client);
	close(copy);
}

struct option {
	int level, name, value;
};

static const struct option set[] = {
	/* It is that size already, but the kernel changes it no more. */
	{ SOL_SOCKET, SO_RCVBUF, 131072 / 2 },
	{ SOL_SOCKET, SO_BROADCAST, 1 },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1 },
	{ SOL_SOCKET, SO_PEEK_OFF, 3 },
	{ IPPROTO_IP, 12 /* IP_RECVTTL */, 1 },
	{ IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */, 2000 },
};

enum { OPTIONS = sizeof(set) / sizeof(*set) };

/* Reads what is there of the options, and SO_BUF_LOCK. */
static void read_options(int socket, int *values)
{
	for (int i = 0; i <= OPTIONS; i++) {
		socklen_t len = sizeof(int);

		values[i] = -1;
		if (i == OPTIONS)
			getsockopt(socket, SOL_SOCKET, SO_BUF_LOCK, &values[i], &len);
		else
			getsockopt(socket, set[i].level, set[i].name, &values[i], &len);
	}
}

/* A connection has the options of its listener, whichever worker accepts it. */
static void test_options_of_connections(void **state)
{
	int epoll, client, conn, wanted[OPTIONS + 1], values[OPTIONS + 1];
	struct epoll_event event;
	pid_t other;

	(void)state;
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_ok(fd);
	for (int i = 0; i < OPTIONS; i++)
		/* An old kernel has not all of them. */
		setsockopt(fd, set[i].level, set[i].name, &set[i].value, sizeof(int));
	read_options(fd, wanted);
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 16));
	other = start_workers(&epoll, nothing);
	for (int i = 0; i < 200; i++) {
		client = connect_on(i % 2, &a);
		epoll_wait(epoll, &event, 1, 1);
		conn = accept(fd, NULL, NULL);
		if (conn >= 0) {
			read_options(conn, values);
			assert_memory_equal(values, wanted, sizeof(wanted));
			close(conn);
		}
		close(client);
	}
	stop_workers(other, epoll);
}

static void wait_for_a_while(void)
{
	int epoll = instance();

	for (int i = 0; i < 100; i++)
		work(epoll, 'w', 1);
	close(epoll);
}

/* A listener for a device that is not there gets no connection by another one. */
static void test_device_that_is_not_there(void **state)
{
	int index = 12345;
	pid_t other;

	(void)state;
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_ok(fd);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &index, sizeof(index)));
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 16));
	other = fork();
	assert_ok(other);
	if (!other) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			wait_for_a_while();
	}
	for (int i = 0; i < 10; i++) {
		wait_for_a_while();
		assert_true(refused(i % 2));
		unpin();
	}
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
}

static int mappings(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	int count = 0, c;

	assert_non_null(maps);
	while ((c = fgetc(maps)) != EOF)
		count += c == '\n';
	fclose(maps);
	return count;
}

/* As an FTP server does, which listens for each transfer. */
static void test_many_listeners(void **state)
{
	union address b;
	int before = 0;

	(void)state;
	for (int i = 0; i < 400; i++) {
		close(listener(AF_INET, &b));
		if (i == 100)
			before = mappings();
	}
	assert_in_range(mappings(), 0, before + 20);
	assert_int_equal(reuseport(fd), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_reuseport_of_udp),
		T(test_reuseport_at_another_address),
		T(test_reuseport_of_connections),
		T(test_number_of_a_connection),
		T(test_pwait2_invalid),
		T(test_pwait2_duration),
		T(test_listen_after_shutdown),
		T(test_listener_is_disconnected),
		T(test_wrong_arguments),
		T(test_program_of_bpf),
		T(test_options_of_connections),
		T(test_device_that_is_not_there),
		T(test_many_listeners),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
