// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: a thread gets a table of descriptors of its own. What it does
 * with them then concerns the other threads no more, as without the library. So all tests pass
 * without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_tables [NAME]
 */
#include "server.h"

#include <linux/close_range.h>
#include <threads.h>

static int epoll, clients[8];
static pid_t other;

static void nothing(void)
{
}

/* Of two workers, one stops, and connections wait for both. */
static int setup_connections(void **state)
{
	setup(state);
	other = start_workers(&epoll, nothing);
	usleep(20000);
	stop_child(other);
	for (int i = 0; i < 8; i++)
		clients[i] = connect_on(i % 2, &a);
	return 0;
}

/* The one that is stopped has ended, so that only this process can answer. */
static void assert_answers(void)
{
	kill(other, SIGKILL);
	await_answers(epoll, clients);
}

static int teardown_connections(void **state)
{
	stop_workers(other, epoll);
	for (int i = 0; i < 8; i++)
		close(clients[i]);
	return teardown(state);
}

static void close_listener(void)
{
	close(fd);
}

static void *unshare_first(void *then)
{
	assert_ok(unshare(CLONE_FILES));
	((void (*)(void))then)();
	return NULL;
}

static void run(void *(*function)(void *), void *arg)
{
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, function, arg), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_close(void **state)
{
	(void)state;
	run(unshare_first, close_listener);
	assert_answers();
}

static void *unshare_by_number(void *unused)
{
	assert_ok(syscall(SYS_unshare, CLONE_FILES));
	close(fd);
	return unused;
}

static void test_unshare_by_number(void **state)
{
	(void)state;
	run(unshare_by_number, NULL);
	assert_answers();
}

static void *close_range_by_number(void *flags)
{
	assert_ok(syscall(SYS_close_range, 3, ~0U, *(int *)flags));
	close(fd);
	return NULL;
}

static void test_range(void **state)
{
	int flags = CLOSE_RANGE_UNSHARE;

	(void)state;
	run(close_range_by_number, &flags);
	assert_answers();
}

/* It closes nothing, but the table is the thread's own from then on. */
static void test_range_to_close_on_exec(void **state)
{
	int flags = CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC;

	(void)state;
	run(close_range_by_number, &flags);
	assert_answers();
}

/* A call that fails gives the thread no table: then the listener is closed for all. */
static void *fail_and_close(void *unused)
{
	assert_errno(syscall(SYS_close_range, 4, 3, CLOSE_RANGE_UNSHARE), EINVAL);
	assert_errno(syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_UNSHARE | 1 << 10), EINVAL);
	assert_errno(unshare(CLONE_FILES | 1), EINVAL);
	assert_ok(unshare(0));
	close(fd);
	return unused;
}

static bool port_is_free(void)
{
	int next = socket(AF_INET, SOCK_STREAM, 0), ret;

	assert_ok(next);
	ret = bind(next, &a.sa, address_len(&a));
	close(next);
	return !ret;
}

static void assert_port_is_free(void)
{
	assert_true(port_is_free());
}

/* Starts no workers, so that no other process has the listener. */
static void test_no_table(void **state)
{
	(void)state;
	run(fail_and_close, NULL);
	assert_errno(fcntl(fd, F_GETFD), EBADF);
	assert_port_is_free();
}

/* A thread that is alone has nobody to leave the listener to. */
static void test_alone(void **state)
{
	(void)state;
	assert_ok(unshare(CLONE_FILES));
	assert_ok(syscall(SYS_close_range, 1000000, ~0U, CLOSE_RANGE_UNSHARE));
	close(fd);
	assert_port_is_free();
}

static void take_numbers(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int number = 100; number < 1000; number++)
		assert_int_equal(dup2(null, number), number);
}

static void test_numbers_are_taken(void **state)
{
	(void)state;
	run(unshare_first, take_numbers);
	assert_answers();
}

/* In the thread's table, other files get the numbers of the listener and of the instance. */
static void replace(void)
{
	union address b;
	int mine = listener(AF_INET, &b), own = epoll_create1(0), unnamed[2], client;
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 7 };

	assert_int_equal(dup2(mine, fd), fd);
	assert_int_equal(dup2(own, epoll), epoll);
	set_nonblock(fd);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	assert_int_equal(epoll_wait(epoll, &event, 1, 300), 0);
	assert_errno(accept(fd, NULL, NULL), EAGAIN);
	client = connect_on(0, &b);
	assert_int_equal(epoll_wait(epoll, &event, 1, 20000), 1);
	assert_int_equal(event.data.u64, 7);
	close(accept(fd, NULL, NULL));
	close(client);
	close(fd);
	/* Sockets of other kinds get these numbers, too. */
	assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, unnamed));
	assert_ok(socket(AF_UNIX, SOCK_STREAM, 0));
	assert_ok(socket(AF_INET, SOCK_STREAM, 0));
	close(epoll);
}

static void test_numbers_are_replaced(void **state)
{
	(void)state;
	run(unshare_first, replace);
	assert_answers();
	/* They are numbers of the listener and the instance here, also for later connections. */
	for (int i = 0; i < 8; i++) {
		close(clients[i]);
		clients[i] = connect_on(i % 2, &a);
	}
	await_answers(epoll, clients);
}

static int close_and_return(void *arg)
{
	close(fd);
	return arg != NULL;
}

static void *close_as_thread(void *arg)
{
	close_and_return(arg);
	return arg;
}

/* Threads that such a thread starts share its table. */
static void start_more(void)
{
	thrd_t thread;
	int result;

	run(close_as_thread, NULL);
	assert_errno(fcntl(fd, F_GETFD), EBADF);
	assert_int_equal(open("/dev/null", O_RDWR), fd);
	assert_int_equal(thrd_create(&thread, close_and_return, &fd), thrd_success);
	assert_int_equal(thrd_join(thread, &result), thrd_success);
	assert_int_equal(result, 1);
	assert_errno(fcntl(fd, F_GETFD), EBADF);
}

static void test_threads_of_it(void **state)
{
	(void)state;
	run(unshare_first, start_more);
	assert_answers();
}

/* 1: the thread has a table of its own. 2: the others have closed the listener. 3: it has, too. */
static atomic_int stage;

static void close_at_last(void)
{
	stage = 1;
	while (stage != 2)
		usleep(1000);
	close(fd);
	stage = 3;
	while (stage != 4)
		usleep(1000);
}

/* A thread that lives on holds nothing of the listener that it has closed. */
static void test_port_is_free(void **state)
{
	pthread_t thread;

	(void)state;
	stage = 0;
	assert_int_equal(pthread_create(&thread, NULL, unshare_first, close_at_last), 0);
	await(stage == 1);
	close(fd);
	stage = 2;
	await(stage == 3);
	assert_port_is_free();
	stage = 4;
	assert_int_equal(pthread_join(thread, NULL), 0);
}

/* The thread's own files of the kind of the library's memory, under numbers that this has there. */
static void take_numbers_for_memory(void)
{
	int memory = memfd_create("test", MFD_ALLOW_SEALING);

	assert_ok(memory);
	assert_ok(fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK));
	for (int number = 100; number < 1000; number++)
		assert_int_equal(dup2(memory, number), number);
	assert_int_equal(dup2(memory, fd), fd);
	for (int number = 100; number < 1000; number++)
		assert_ok(fcntl(number, F_GETFD));
}

static void test_memory_is_its_own(void **state)
{
	(void)state;
	run(unshare_first, take_numbers_for_memory);
	assert_answers();
}

/* Briefly, since there are many of these. */
static void await_soon(int reached)
{
	while (stage != reached)
		sched_yield();
}

static void *unshare_after(void *turns)
{
	await_soon(1);
	for (volatile long i = 0; i < (long)turns; i++)
		;
	assert_ok(unshare(CLONE_FILES));
	close(fd);
	stage = 2;
	await_soon(3);
	return NULL;
}

/* A thread unshares at about the moment at which another makes or closes the listener. */
static void unshare_meanwhile(long turns, bool makes)
{
	pthread_t thread;
	bool is_free;

	stage = 0;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(fd);
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	if (!makes)
		assert_ok(listen(fd, 5));
	assert_int_equal(pthread_create(&thread, NULL, unshare_after, (void *)turns), 0);
	usleep(200);
	stage = 1;
	if (makes)
		assert_ok(listen(fd, 5));
	else
		close(fd);
	await_soon(2);
	if (makes)
		close(fd);
	is_free = port_is_free();
	stage = 3;
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(is_free);
}

static void test_unshares_meanwhile(void **state)
{
	long until = now_ms() + 8000;

	close(fd);
	/* The lab's emulator does a small part of them in that time. */
	for (long i = 0; i < 1500 && now_ms() < until; i++) {
		unshare_meanwhile(i % 150 * 3000, true);
		unshare_meanwhile(i % 100 * 300, false);
	}
	setup(state);
}

static void shut_down(void)
{
	assert_ok(shutdown(fd, SHUT_RDWR));
}

/* The socket is one for all. The other worker is not needed to notice. */
static void test_shutdown(void **state)
{
	(void)state;
	run(unshare_first, shut_down);
	for (int i = 0; i < 8; i++)
		work(epoll, 'm', 0);
	for (int i = 0; i < 4; i++)
		assert_true(refused(i % 2));
	assert_errno(accept(fd, NULL, NULL), EINVAL);
}

static void greet_by_itself(void)
{
	int own = instance(), late;

	assert_int_equal(reuseport(fd), 0);
	kill(other, SIGKILL);
	late = connect_on(0, &a);
	for (int tries = 0; tries < 20000 && readable(late, 0) != 1; tries++) {
		work(own, 't', 1);
		if (!tries)
			stage = 1;
	}
	assert_int_equal(readable(late, 0), 1);
	close(late);
}

/* It can go on to serve the listener, beside a worker that has members. */
static void test_serves(void **state)
{
	pthread_t thread;

	(void)state;
	stage = 0;
	assert_int_equal(pthread_create(&thread, NULL, unshare_first, greet_by_itself), 0);
	await(stage == 1);
	assert_answers();
	for (int tries = 0; tries < 300; tries++)
		work(epoll, 'm', 1);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

/* Replaces the listener by one of workers that do not look for connections of the other one. */
static void listen_patiently(void)
{
	close(fd);
	setenv("FSOCKET_STEAL_AFTER_MS", "10000", 1);
	fd = listener(AF_INET, &a);
	unsetenv("FSOCKET_STEAL_AFTER_MS");
	set_nonblock(fd);
}

static void *work_apart(void *unused)
{
	other = start_workers(&epoll, nothing);
	assert_ok(unshare(CLONE_FILES));
	stage = 1;
	while (stage != 2)
		work(epoll, 't', 1);
	return unused;
}

/* A worker unshares its table: no connection is left to it alone, which it could not take. */
static void test_worker_unshares(void **state)
{
	pthread_t thread;
	int client;

	(void)state;
	listen_patiently();
	stage = 0;
	assert_int_equal(pthread_create(&thread, NULL, work_apart, NULL), 0);
	await(stage == 1);
	for (int i = 0; i < 20; i++) {
		client = connect_on(i % 2, &a);
		assert_int_equal(readable(client, 5000), 1);
		close(client);
	}
	stage = 2;
	assert_int_equal(pthread_join(thread, NULL), 0);
	stop_workers(other, epoll);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup_connections, teardown_connections)
		T(test_close),
		T(test_unshare_by_number),
		T(test_range),
		T(test_range_to_close_on_exec),
		T(test_numbers_are_taken),
		T(test_numbers_are_replaced),
		T(test_threads_of_it),
		T(test_memory_is_its_own),
		T(test_shutdown),
		T(test_serves),
#undef T
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_no_table),
		T(test_alone),
		T(test_port_is_free),
		T(test_unshares_meanwhile),
		T(test_worker_unshares),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
