// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what a program does with its descriptors and the options of its
 * sockets has the same effect as without the library. So all tests pass without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_descriptors [NAME]
 */
#include "helpers.h"

#include <limits.h>
#include <stdatomic.h>
#include <sys/resource.h>

static int fd;
static union address a;

static int setup(void **state)
{
	(void)state;
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(fd);
	unpin();
	return 0;
}

/* Nobody has the listener any more, so its port can be bound without any option. */
static void assert_port_is_free(void)
{
	int other = socket(AF_INET, SOCK_STREAM, 0);

	assert_ok(other);
	assert_ok(bind(other, &a.sa, address_len(&a)));
	close(other);
}

static void wait_for(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* As posix_spawn() does for a program that shall not have the listener. */
static void test_vfork_and_close(void **state)
{
	pid_t child = vfork();

	(void)state;
	if (!child) {
		close(fd);
		_exit(0);
	}
	wait_for(child);
	close(fd);
	assert_port_is_free();
}

static void test_vfork_and_dup2(void **state)
{
	int null = open("/dev/null", O_RDWR);
	pid_t child;

	(void)state;
	assert_ok(null);
	child = vfork();
	if (!child) {
		dup2(null, fd);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	wait_for(child);
	close(null);
	close(fd);
	assert_port_is_free();
}

static void test_vfork_and_socket(void **state)
{
	pid_t child = vfork();

	(void)state;
	if (!child) {
		close(fd);
		_exit(socket(AF_INET, SOCK_STREAM, 0) != fd);
	}
	wait_for(child);
	close(fd);
	assert_port_is_free();
}

/* Closes the listener and lives on. */
static int close_and_pause(void *arg)
{
	int *closed = arg;

	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	close(fd);
	syscall(SYS_write, closed[1], "x", 1);
	for (;;)
		syscall(SYS_pause);
	return 0;
}

/* Another process with the same memory holds nothing once it has closed the listener. */
static void test_child_with_the_same_memory(void **state)
{
	static char stack[65536];
	int closed[2];
	pid_t child;
	char byte;

	(void)state;
	assert_ok(pipe(closed));
	child = clone(close_and_pause, stack + sizeof(stack), CLONE_VM | SIGCHLD, closed);
	assert_ok(child);
	assert_int_equal(read(closed[0], &byte, 1), 1);
	close(fd);
	assert_port_is_free();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(closed[0]);
	close(closed[1]);
}

/* A child that the C library does not know has descriptors of its own, which it closes. */
static void test_child_by_clone(void **state)
{
	int closed[2];
	pid_t child;
	char byte;

	(void)state;
	assert_ok(pipe(closed));
	child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	assert_ok(child);
	if (!child)
		close_and_pause(closed);
	assert_int_equal(read(closed[0], &byte, 1), 1);
	close(fd);
	assert_port_is_free();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(closed[0]);
	close(closed[1]);
}

static int reuseport(int socket)
{
	socklen_t len = sizeof(int);
	int value = -1;

	assert_ok(getsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	return value;
}

static void set_reuseport(int socket)
{
	const int on = 1;

	assert_ok(setsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)));
}

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

/* As a server of HTTP/3 has beside its listener. */
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
	/* Without listen(), it may also connect. */
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

/* The number of a connection that has been closed says nothing of the next file. */
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

/* Returns an instance of a worker. */
static int instance(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	int epoll = epoll_create1(0);

	assert_ok(epoll);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	return epoll;
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

/* Other numbers of the listener: with FSOCKET_REQUIRED=1 the program ends if it has no group. */
static void test_copy(void **state)
{
	int copies[] = { dup(fd), fcntl(fd, F_DUPFD_CLOEXEC, 100), dup2(fd, 200) };

	(void)state;
	for (int i = 0; i < 3; i++)
		assert_ok(copies[i]);
	close(fd);
	for (int i = 0; i < 3; i++) {
		fd = copies[i];
		close(instance());
		close(connect_on(0, &a));
		assert_int_equal(readable(fd, 20000), 1);
		close(accept(fd, NULL, NULL));
		assert_int_equal(reuseport(fd), 0);
		close(fd);
	}
	assert_port_is_free();
}

/* The program does not use the copy. */
static void test_copy_is_closed(void **state)
{
	int copy = dup(fd);

	(void)state;
	assert_ok(copy);
	close(fd);
	close(copy);
	assert_port_is_free();
}

/* By a system call that names its number. */
static void test_system_call_dup2(void **state)
{
	int null = open("/dev/null", O_RDWR);

	(void)state;
	assert_ok(null);
	assert_ok(syscall(SYS_dup2, null, fd));
	assert_port_is_free();
	close(null);
}

/* How far the processes of a test are, which share this. */
static atomic_int *told;

static void tell(int stage)
{
	*told = stage;
}

static void await(int stage)
{
	while (*told != stage)
		usleep(1000);
}

/* Waits for the listener, and answers each connection with the letter. */
static void work(int epoll, char letter, int timeout)
{
	struct epoll_event event;
	int conn;

	if (epoll_wait(epoll, &event, 1, timeout) <= 0)
		return;
	while ((conn = accept(fd, NULL, NULL)) >= 0) {
		assert_int_equal(write(conn, &letter, 1), 1);
		close(conn);
	}
}

/*
 * Starts a server of two workers, one of which is this process, and which have members of a group
 * if there is one. Returns the other worker, which begins its task when told is 1, and then makes it
 * 2.
 */
static pid_t start_workers(int *epoll, void (*task)(void))
{
	pid_t other;

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(told, MAP_FAILED);
	other = fork();
	assert_ok(other);
	*epoll = instance();
	if (!other) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!*told)
			work(*epoll, 'o', 1);
		task();
		tell(2);
		for (;;)
			work(*epoll, 'o', 1);
	}
	for (int i = 0; i < 500; i++) {
		int client = connect_on(i % 2, &a);

		work(*epoll, 'm', 1);
		close(client);
	}
	return other;
}

static void stop_workers(pid_t other, int epoll)
{
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	close(epoll);
	unpin();
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
	await(2);
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

/* The errors of a socket that is in no group of the program's. */
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

/* The program has attached none, also while the library has; by each descriptor of the listener. */
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
	await(2);
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

/* Gives the file to all numbers from 128 to 999 that the program has not used. */
static void take_numbers(void)
{
	int null = open("/dev/null", O_RDWR);
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	for (int number = 128; number < 1000 && (rlim_t)number < limit.rlim_cur - 20; number++)
		if (dup2(null, number) != number)
			_exit(1);
	close(null);
}

static void take_numbers_later(void)
{
	tell(3);
	await(4);
	take_numbers();
}

static void free_numbers(void)
{
	for (int number = 128; number < 1000; number++)
		close(number);
}

/* Connections wait for each worker while all give the numbers of the members to other files. */
static void test_numbers_of_members(void **state)
{
	int epoll, clients[8], answered = 0;
	pid_t other;

	(void)state;
	other = start_workers(&epoll, take_numbers_later);
	tell(1);
	await(3);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	tell(4);
	take_numbers();
	await(2);
	for (int tries = 0; answered < 8 && tries < 20000; tries++) {
		work(epoll, 'm', 1);
		while (answered < 8 && readable(clients[answered], 0) == 1)
			assert_true(greeting(clients[answered++]));
	}
	assert_int_equal(answered, 8);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	stop_workers(other, epoll);
	free_numbers();
}

/* A program that may have few descriptors can have all, with all numbers. */
static void test_few_descriptors(void **state)
{
	struct rlimit old, few = { .rlim_cur = 250 };
	union address b;
	int other, copy;

	(void)state;
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	few.rlim_max = old.rlim_max;
	/* Take away what setup() has made with the higher limit. */
	close(fd);
	assert_ok(setrlimit(RLIMIT_NOFILE, &few));
	other = listener(AF_INET, &b);
	for (int number = 100; number < 250; number++) {
		assert_errno(fcntl(number, F_GETFD), EBADF);
		copy = fcntl(other, F_DUPFD, number);
		assert_int_equal(copy, number);
		close(copy);
	}
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	close(other);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_vfork_and_close),
		T(test_vfork_and_dup2),
		T(test_vfork_and_socket),
		T(test_child_with_the_same_memory),
		T(test_child_by_clone),
		T(test_reuseport_of_udp),
		T(test_reuseport_at_another_address),
		T(test_reuseport_of_connections),
		T(test_number_of_a_connection),
		T(test_pwait2_invalid),
		T(test_pwait2_duration),
		T(test_copy),
		T(test_copy_is_closed),
		T(test_system_call_dup2),
		T(test_listen_after_shutdown),
		T(test_program_of_bpf),
		T(test_numbers_of_members),
		T(test_few_descriptors),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
