// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: servers whose workers do not all accept and live as those
 * of test_kernel_backend do.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_workers [NAME]
 */
#include "kernel_workers.h"

#include <limits.h>
#include <stdatomic.h>

static void test_accept_by_number(void **state)
{
	(void)state;
	start_worker(0, accept_by_number);
	start_worker(1, accept_by_old_number);
	await_workers(0, 1);
	await_local(0, 1);
	answer_all(2);
}

/* Another worker takes what the library gave to the one whose accept() it does not see. */
static void test_accept_unseen_beside_another(void **state)
{
	(void)state;
	start_worker(0, accept_inline);
	start_worker(1, accept_by_name);
	answer_all(2);
	for (int i = 0; i < 4000 && cpu_of(workers[0]) >= 0; i++)
		ask(i % 2);
	assert_int_equal(cpu_of(workers[0]), -1);
	answer_all(2);
}

static void test_stopped_while_it_waits(void **state)
{
	(void)state;
	start_workers(3);
	await_local(0, 2);
	pause_worker(0);
	let_others_see();
	await_local(1, 2);
	kill(workers[0], SIGCONT);
	await_local(0, 2);
}

static void test_dead_and_not_reaped(void **state)
{
	(void)state;
	start_workers(3);
	await_local(0, 2);
	kill(workers[0], SIGKILL);
	let_others_see();
	await_local(1, 2);
}

/* A lone worker does not look up, so it never learns of workers that come while it is stopped. */
static void test_stopped_before_others_came(void **state)
{
	(void)state;
	start_worker(0, accept_by_name);
	assert_int_equal(ask(0), '0');
	pause_worker(0);
	start_worker(1, accept_by_name);
	start_worker(2, accept_by_name);
	await_workers(1, 2);
	await_local(1, 2);
	kill(workers[0], SIGCONT);
	await_workers(0, 2);
	await_local(0, 2);
}

/* A program that is no worker gets the thread ID of a worker that others take for alive. */
static void test_number_used_again(void **state)
{
	char text[16];
	pid_t old, new = 0;
	FILE *last;

	(void)state;
	start_worker(0, accept_by_name);
	assert_int_equal(ask(0), '0');
	old = workers[0];
	usleep(20000);
	kill_worker(0);
	for (int i = 0; i < 20 && new != old; i++) {
		if (new)
			kill(new, SIGKILL);
		if (new)
			waitpid(new, NULL, 0);
		last = fopen("/proc/sys/kernel/ns_last_pid", "w");
		if (!last)
			skip();
		snprintf(text, sizeof(text), "%d", old - 1);
		fputs(text, last);
		if (fclose(last))
			skip();
		new = fork();
		while (!new)
			pause();
	}
	workers[3] = new;
	assert_int_equal(new, old);
	start_worker(1, accept_by_name);
	start_worker(2, accept_by_name);
	await_workers(1, 2);
	await_local(1, 2);
}

/* Connections wait in the member of this worker, and in the listener. */
static void test_one_event_of_one_registration(void **state)
{
	struct epoll_event events[8];
	int epoll, conns[2];

	(void)state;
	/* Nobody else takes the first connection. */
	set_late("1000");
	start_worker(0, accept_by_name);
	epoll = watch_listener();
	/* Connect until the other worker leaves a connection in the member of this one. */
	for (int i = 0; i < 400; i++) {
		if (pinned_cpu() >= 0 && cpu_of(workers[0]) >= 0 && !waiting_in_listener()) {
			conns[0] = connect_on(pinned_cpu(), &a);
			if (!readable(conns[0], 20) && !waiting_in_listener())
				break;
		} else {
			conns[0] = connect_on(i % 2, &a);
		}
		if (epoll_wait(epoll, events, 8, 1) > 0)
			greet_all('1', accept_by_name);
		close(conns[0]);
		conns[0] = -1;
	}
	assert_true(conns[0] >= 0);
	/* The worker frees its claim when it ends; then the listener gets all connections. */
	kill(workers[0], SIGTERM);
	assert_int_equal(waitpid(workers[0], NULL, 0), workers[0]);
	workers[0] = 0;
	conns[1] = connect_on(pinned_cpu(), &a);
	assert_int_equal(waiting_in_listener(), 1);
	assert_int_equal(epoll_wait(epoll, events, 8, 0), 1);
	assert_int_equal(epoll_pwait2(epoll, events, 8, &(struct timespec){ 0 }, NULL), 1);
	close(conns[0]);
	close(conns[1]);
	close(epoll);
}

static void *serve_in_thread(void *arg)
{
	atomic_store((atomic_int *)arg, gettid());
	serve('t', accept_by_name);
	return NULL;
}

/* Servers with thousands of threads give each as little as there may be. */
static void test_small_stacks(void **state)
{
	atomic_int tids[2] = { 0 };
	pthread_t threads[2];
	pthread_attr_t attr;

	(void)state;
	assert_int_equal(pthread_attr_init(&attr), 0);
	assert_int_equal(pthread_attr_setstacksize(&attr, PTHREAD_STACK_MIN), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], &attr, serve_in_thread, &tids[i]), 0);
	for (int i = 0; i < 4000 && (cpu_of(tids[0]) < 0 || cpu_of(tids[1]) < 0); i++) {
		assert_int_equal(ask(i % 2), 't');
		usleep(1000);
	}
	for (int i = 0; i < 2; i++) {
		assert_true(cpu_of(tids[i]) >= 0);
		pthread_cancel(threads[i]);
		pthread_join(threads[i], NULL);
	}
}

/* It waits for its instance, and only asks the instance what is ready. */
static void start_outer_worker(int i)
{
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	epoll = watch_listener();
	for (;;)
		if (readable(epoll, -1) == 1 && epoll_wait(epoll, &event, 1, 0) == 1)
			greet_all('0' + i, accept_by_name);
}

/* The other one takes all connections, though it never looks what a dead one has left. */
static void test_outer_waits(void **state)
{
	int conn;

	(void)state;
	for (int i = 0; i < 2; i++)
		start_outer_worker(i);
	for (int i = 0; i < 300; i++) {
		assert_true(ask(i % 2));
		usleep(2000);
	}
	kill_worker(0);
	for (int i = 0; i < 2; i++) {
		conn = connect_on(i, &a);
		assert_int_equal(readable(conn, 20000), 1);
		close(conn);
	}
}

static void start_worker_of(int epoll, int i)
{
	struct epoll_event event;

	if (!is_worker(i))
		return;
	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			greet_all('0' + i, accept_by_name);
}

/* Children that share their parent's instance: an event that one gets is gone for the others. */
static void test_shared_instance(void **state)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int epoll = epoll_create1(0), conn;

	(void)state;
	assert_ok(epoll);
	/* Nobody looks what others have left. */
	set_late("10000");
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	for (int i = 0; i < 2; i++)
		start_worker_of(epoll, i);
	for (int i = 0; i < 300; i++) {
		conn = connect_on(i % 2, &a);
		assert_int_equal(readable(conn, 8000), 1);
		close(conn);
		usleep(1000);
	}
	close(epoll);
}

/* Forks a process that waits for the listener, once or for ever; returns when it has waited once. */
static pid_t start_idle_worker(const int *ready, bool once)
{
	struct epoll_event event;
	char byte = 'r';
	int epoll;
	pid_t pid = fork();

	assert_ok(pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		epoll = watch_listener();
		epoll_wait(epoll, &event, 1, 1);
		if (write(ready[1], &byte, 1) != 1)
			_exit(1);
		while (once)
			pause();
		for (;;)
			epoll_wait(epoll, &event, 1, -1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	return pid;
}

/* The library has room for 256 workers, and one more does not ask for room each time it waits. */
static void test_more_workers_than_room(void **state)
{
	struct epoll_event event;
	int ready[2], epoll;
	long before;

	(void)state;
	set_late("1000");
	assert_ok(pipe(ready));
	for (int i = 0; i < 256; i++)
		start_idle_worker(ready, false);
	epoll = watch_listener();
	epoll_wait(epoll, &event, 1, 1);
	before = reads(getpid());
	for (int i = 0; i < 50; i++)
		epoll_wait(epoll, &event, 1, 1);
	assert_in_range(reads(getpid()), before, before + 25);
	close(epoll);
}

static long reads_of_workers(void)
{
	long count = 0;

	for (int i = 0; i < MOST; i++)
		count += reads(workers[i]);
	return count;
}

/*
 * Twenty workers are away. However many others are idle, they read the state of each no more often
 * together than one looks up, which is ten times a second.
 */
static void test_many_are_away(void **state)
{
	pid_t away[20];
	long before, begin;
	int ready[2];

	(void)state;
	assert_ok(pipe(ready));
	for (int i = 0; i < 20; i++)
		away[i] = start_idle_worker(ready, true);
	for (int i = 0; i < MOST; i++)
		workers[i] = start_idle_worker(ready, false);
	let_others_see();
	before = reads_of_workers();
	begin = now_ms();
	sleep(2);
	assert_in_range(reads_of_workers() - before, 0, 2 * 20 * (now_ms() - begin) / 100);
	for (int i = 0; i < 20; i++) {
		kill(away[i], SIGKILL);
		waitpid(away[i], NULL, 0);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_accept_by_number),
		T(test_accept_unseen_beside_another),
		T(test_stopped_while_it_waits),
		T(test_dead_and_not_reaped),
		T(test_stopped_before_others_came),
		T(test_number_used_again),
		T(test_one_event_of_one_registration),
		T(test_small_stacks),
		T(test_outer_waits),
		T(test_shared_instance),
		T(test_more_workers_than_room),
		T(test_many_are_away),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
