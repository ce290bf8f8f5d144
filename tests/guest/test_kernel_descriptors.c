// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what a program does with its descriptors has the same
 * effect as without the library. So all tests pass without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_descriptors [NAME]
 */
#include "server.h"

#include <sys/resource.h>

static void nothing(void)
{
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

/* A child of vfork() closes the listener, as posix_spawn() does by a file action. */
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

/* A shutdown by the child is one of the socket, which the parent has, too. */
static void test_vfork_and_shutdown(void **state)
{
	int epoll;
	pid_t child, other;

	(void)state;
	other = start_workers(&epoll, nothing);
	child = vfork();
	if (!child)
		_exit(shutdown(fd, SHUT_RDWR));
	wait_for(child);
	for (int i = 0; i < 4; i++)
		assert_true(refused(i % 2));
	stop_workers(other, epoll);
}

/* A child closes the instance in which this worker waits, as children that close all numbers do. */
static void test_vfork_and_close_instance(void **state)
{
	int epoll, clients[8];
	pid_t child, other;

	(void)state;
	other = start_workers(&epoll, nothing);
	stop_child(other);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	child = vfork();
	if (!child) {
		close(epoll);
		_exit(0);
	}
	wait_for(child);
	kill(other, SIGKILL);
	await_answers(epoll, clients);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	stop_workers(other, epoll);
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

/* The port is free once the child, which lives on, and this process have closed the listener. */
static void assert_both_close(pid_t child, const int *closed)
{
	char byte;

	assert_ok(child);
	assert_int_equal(read(closed[0], &byte, 1), 1);
	close(fd);
	assert_port_is_free();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(closed[0]);
	close(closed[1]);
}

/* Another process with the same memory holds nothing once it has closed the listener. */
static void test_child_with_the_same_memory(void **state)
{
	static char stack[65536];
	int closed[2];

	(void)state;
	assert_ok(pipe(closed));
	assert_both_close(clone(close_and_pause, stack + sizeof(stack), CLONE_VM | SIGCHLD, closed),
			  closed);
}

/* A child that the C library does not know has descriptors of its own, which it closes. */
static void test_child_by_clone(void **state)
{
	int closed[2];
	pid_t child;

	(void)state;
	assert_ok(pipe(closed));
	child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	if (!child)
		close_and_pause(closed);
	assert_both_close(child, closed);
}

/* A copy of the listener has the group, too: FSOCKET_REQUIRED=1 would end a program without one. */
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

/* The program closes a copy of the listener that it has not used. */
static void test_copy_is_closed(void **state)
{
	int copy = dup(fd);

	(void)state;
	assert_ok(copy);
	close(fd);
	close(copy);
	assert_port_is_free();
}

/* dup2() of a listener by syscall(SYS_dup2), which the library has to follow as well. */
static void test_system_call_dup2(void **state)
{
	int null = open("/dev/null", O_RDWR);

	(void)state;
	assert_ok(null);
	assert_ok(syscall(SYS_dup2, null, fd));
	assert_port_is_free();
	close(null);
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
	await_stage(4);
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
	int epoll, clients[8];
	pid_t other;

	(void)state;
	other = start_workers(&epoll, take_numbers_later);
	tell(1);
	await_stage(3);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	tell(4);
	take_numbers();
	await_stage(2);
	await_answers(epoll, clients);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	stop_workers(other, epoll);
	free_numbers();
}

/* Starts workers that do not look for connections which the other one would have got. */
static pid_t start_patient_workers(int *epoll)
{
	close(fd);
	setenv("FSOCKET_STEAL_AFTER_MS", "10000", 1);
	fd = listener(AF_INET, &a);
	unsetenv("FSOCKET_STEAL_AFTER_MS");
	set_nonblock(fd);
	return start_workers(epoll, nothing);
}

static void listen_once(void)
{
	union address b;

	close(listener(AF_INET, &b));
}

/* The library has given the worker one CPU, and the program has not. */
static void test_worker_listens(void **state)
{
	int epoll, status;
	pid_t other;

	(void)state;
	other = start_workers(&epoll, listen_once);
	tell(1);
	while (*told != 2) {
		/* FSOCKET_REQUIRED=1 ends a process whose listener can have no group. */
		assert_int_equal(waitpid(other, &status, WNOHANG), 0);
		usleep(1000);
	}
	stop_workers(other, epoll);
}

/* Nobody else looks for connections that the first instance would have reported. */
static void test_instance_is_replaced(void **state)
{
	int epoll, copy, client;
	pid_t other;

	(void)state;
	other = start_patient_workers(&epoll);
	copy = instance();
	assert_int_equal(dup2(copy, epoll), epoll);
	close(copy);
	for (int i = 0; i < 2; i++) {
		client = connect_on(i, &a);
		for (int tries = 0; tries < 5000 && readable(client, 0) != 1; tries++)
			work(epoll, 'm', 1);
		assert_int_equal(readable(client, 0), 1);
		close(client);
	}
	stop_workers(other, epoll);
}

/* The other worker gets all connections of one that has closed its instance. */
static void test_instance_in_a_range(void **state)
{
	int epoll, client;
	pid_t other;

	(void)state;
	other = start_patient_workers(&epoll);
	assert_ok(syscall(SYS_close_range, epoll, epoll, 0));
	for (int i = 0; i < 2; i++) {
		client = connect_on(i, &a);
		assert_int_equal(readable(client, 20000), 1);
		close(client);
	}
	stop_workers(other, -1);
}

/* Gives the new listener a second number, which follows its first one, and returns that. */
static int make_twice(void)
{
	union address b;
	int first = fd, twice = listener(AF_INET, &b);

	assert_int_equal(fcntl(twice, F_DUPFD, twice + 1), twice + 1);
	for (fd = twice; fd <= twice + 1; fd++)
		/* This adds it to an instance, so that the library knows the number. */
		close(instance());
	fd = first;
	return twice;
}

/* Files with numbers that were free have nothing to do with the group of a listener. */
static void assert_next_are_plain(void)
{
	int next[8], off = 0;

	for (int i = 0; i < 8; i++) {
		next[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(next[i]);
		assert_ok(setsockopt(next[i], SOL_SOCKET, SO_REUSEPORT, &off, sizeof(off)));
		assert_int_equal(reuseport(next[i]), 0);
	}
	for (int i = 0; i < 8; i++)
		close(next[i]);
}

static void test_both_numbers_in_a_range(void **state)
{
	int twice = make_twice();

	(void)state;
	assert_ok(syscall(SYS_close_range, twice, twice + 1, 0));
	assert_next_are_plain();
}

static void test_copy_is_closed_after_shutdown(void **state)
{
	int twice = make_twice();

	(void)state;
	assert_ok(shutdown(twice, SHUT_RDWR));
	close(twice + 1);
	assert_next_are_plain();
	close(twice);
}

static __thread bool closes_copy;
/* 1: the thread has come to the closing of its copy. 2: the listener's first number is closed. */
static atomic_int closing;

/*
 * The library calls this before its notes about a listener change, and just before it closes it: there
 * the thread waits.
 */
void pthread_testcancel(void)
{
	static int calls;

	if (!closes_copy || ++calls < 2)
		return;
	closing = 1;
	while (closing != 2)
		usleep(1000);
}

static void *close_copy(void *copy)
{
	closes_copy = true;
	close(*(int *)copy);
	closing = 1;
	return NULL;
}

/* Each of two threads closes a number while that of the other one is still there. */
static void test_two_threads_close(void **state)
{
	int first = fd, copy = dup(first);
	pthread_t thread;

	(void)state;
	assert_ok(copy);
	fd = copy;
	/* This adds the copy to an instance, so that the library knows its number. */
	close(instance());
	assert_int_equal(pthread_create(&thread, NULL, close_copy, &copy), 0);
	await(closing == 1);
	close(first);
	closing = 2;
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_port_is_free();
}

/* What fails closes nothing: connections that wait for this worker are not lost. */
static void test_range_is_not_closed(void **state)
{
	int epoll, clients[8];
	pid_t other;

	(void)state;
	other = start_workers(&epoll, nothing);
	stop_child(other);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	assert_errno(syscall(SYS_close_range, fd, ~0U, 1 << 10), EINVAL);
	stop_workers(other, epoll);
	epoll = instance();
	await_answers(epoll, clients);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	close(epoll);
}

/* The library takes no descriptor of a program that may have few. */
static void test_few_descriptors(void **state)
{
	struct rlimit old, few = { .rlim_cur = 250 };
	union address b;
	int other, copy;

	(void)state;
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	few.rlim_max = old.rlim_max;
	/* Close the listener that setup() has made with the higher limit, and with it the group. */
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
		T(test_vfork_and_shutdown),
		T(test_vfork_and_close_instance),
		T(test_child_with_the_same_memory),
		T(test_child_by_clone),
		T(test_copy),
		T(test_copy_is_closed),
		T(test_system_call_dup2),
		T(test_numbers_of_members),
		T(test_worker_listens),
		T(test_instance_is_replaced),
		T(test_instance_in_a_range),
		T(test_both_numbers_in_a_range),
		T(test_copy_is_closed_after_shutdown),
		T(test_two_threads_close),
		T(test_range_is_not_closed),
		T(test_few_descriptors),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
