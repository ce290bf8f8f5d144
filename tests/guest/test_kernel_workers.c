// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: servers whose workers do not all accept, wait or live as
 * those of test_kernel_backend do.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_workers [NAME]
 */
#include "helpers.h"

#include <netinet/in.h>

#define MOST 4

static int fd;
static union address a;
static pid_t workers[MOST];

static int setup(void **state)
{
	(void)state;
	memset(workers, 0, sizeof(workers));
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static void kill_worker(int i)
{
	if (!workers[i])
		return;
	kill(workers[i], SIGKILL);
	waitpid(workers[i], NULL, 0);
	workers[i] = 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < MOST; i++)
		kill_worker(i);
	close(fd);
	unpin();
	return 0;
}

static void set_late(const char *ms)
{
	close(fd);
	setenv("FSOCKET_STEAL_AFTER_MS", ms, 1);
	fd = listener(AF_INET, &a);
	unsetenv("FSOCKET_STEAL_AFTER_MS");
	set_nonblock(fd);
}

/* As programs do that do not call the C library. */
static int accept_inline(int from)
{
	register long r10 asm("r10") = 0;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(SYS_accept4), "D"((long)from), "S"(0L), "d"(0L), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret < 0 ? -1 : ret;
}

static int accept_by_number(int from)
{
	return syscall(SYS_accept4, from, NULL, NULL, 0);
}

static int accept_by_old_number(int from)
{
	return syscall(SYS_accept, from, NULL, NULL);
}

static int accept_by_name(int from)
{
	return accept(from, NULL, NULL);
}

static void greet_all(char letter, int (*accept_one)(int))
{
	int conn;

	while ((conn = accept_one(fd)) >= 0) {
		if (write(conn, &letter, 1) != 1)
			_exit(3);
		close(conn);
	}
}

static int watch_listener(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0);

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
		_exit(4);
	return epoll;
}

static void serve(char letter, int (*accept_one)(int))
{
	int epoll = watch_listener();
	struct epoll_event event;

	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			greet_all(letter, accept_one);
}

static void leave(int signal)
{
	exit(signal != SIGTERM);
}

static void start_worker(int i, int (*accept_one)(int))
{
	workers[i] = fork();
	assert_ok(workers[i]);
	if (workers[i])
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, leave);
	serve('0' + i, accept_one);
}

static char ask(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

/* Waits until all these workers are pinned, and have members. */
static void await_workers(int first, int last)
{
	int pinned;

	for (int round = 0; round < 4000; round++) {
		pinned = 0;
		assert_true(ask(round % 2));
		for (int i = first; i <= last; i++)
			pinned += cpu_of(workers[i]) >= 0;
		if (pinned == last - first + 1)
			return;
		usleep(1000);
	}
	fail();
}

static void start_workers(int count)
{
	for (int i = 0; i < count; i++)
		start_worker(i, accept_by_name);
	await_workers(0, count - 1);
}

/* Waits until the worker has surely stopped, not within an answer. */
static void pause_worker(int i)
{
	int status;

	usleep(20000);
	assert_ok(kill(workers[i], SIGSTOP));
	assert_int_equal(waitpid(workers[i], &status, WUNTRACED), workers[i]);
	assert_true(WIFSTOPPED(status));
}

/* Returns the number of connections that wait in the listener itself. */
static int waiting_in_listener(void)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	assert_ok(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
	/* For a listener, this is the length of its queue. */
	return info.tcpi_unacked;
}

/* Returns whether connections of both CPUs go to workers' members while these workers stand still. */
static bool all_local(int first, int last)
{
	int conns[2], waiting;

	for (int i = first; i <= last; i++)
		pause_worker(i);
	for (int i = 0; i < 2; i++)
		conns[i] = connect_on(i, &a);
	waiting = waiting_in_listener();
	for (int i = first; i <= last; i++)
		kill(workers[i], SIGCONT);
	for (int i = 0; i < 2; i++) {
		assert_true(greeting(conns[i]));
		close(conns[i]);
	}
	return !waiting;
}

static void await_local(int first, int last)
{
	for (int i = 0; i < 100; i++) {
		if (all_local(first, last))
			return;
		/* Connections wake those that do not know of the others yet. */
		for (int k = 0; k < 10; k++)
			ask(k % 2);
		usleep(20000);
	}
	fail();
}

/* By then the others have seen that one is silent: STALE() in library/route.h. */
static void let_others_see(void)
{
	usleep(1500000);
}

static void answer_all(int count)
{
	for (int i = 0; i < 100; i++)
		assert_true(ask(i % 2));
	for (int i = 0; i < count; i++)
		assert_ok(kill(workers[i], 0));
}

static void test_accept_by_number(void **state)
{
	(void)state;
	start_worker(0, accept_by_number);
	start_worker(1, accept_by_old_number);
	await_workers(0, 1);
	await_local(0, 1);
	answer_all(2);
}

/* The library never sees an accept(), so all connections stay in the listener. */
static void test_accept_unseen(void **state)
{
	(void)state;
	start_worker(0, accept_inline);
	start_worker(1, accept_inline);
	answer_all(2);
	assert_int_equal(cpu_of(workers[0]), -1);
	assert_int_equal(cpu_of(workers[1]), -1);
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

/* A lone worker sleeps, and so never learns of those that come after it has stopped. */
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

/* A program that is no worker gets the number of a dead one that the others do not know as dead. */
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
	/* Until the other worker leaves a connection to this one, whose member then has it. */
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
	/* It tells the others that it ends, and from then on the listener gets all. */
	kill(workers[0], SIGTERM);
	assert_int_equal(waitpid(workers[0], NULL, 0), workers[0]);
	workers[0] = 0;
	conns[1] = connect_on(pinned_cpu(), &a);
	assert_int_equal(waiting_in_listener(), 1);
	assert_int_equal(epoll_wait(epoll, events, 8, 0), 1);
	close(conns[0]);
	close(conns[1]);
	close(epoll);
}

static void wait_by_poll(void)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, -1) != 1 || p.revents != POLLIN)
		_exit(5);
}

static void wait_by_ppoll(void)
{
	struct pollfd p[2] = { { .fd = -1 }, { .fd = fd, .events = POLLIN } };
	struct timespec limit = { .tv_sec = 100 };
	sigset_t none;

	sigemptyset(&none);
	if (ppoll(p, 2, &limit, &none) != 1 || p[1].revents != POLLIN)
		_exit(5);
}

static void wait_by_select(void)
{
	struct timeval limit = { .tv_sec = 100 };
	fd_set set, none;

	FD_ZERO(&set);
	FD_ZERO(&none);
	FD_SET(fd, &set);
	if (select(fd + 1, &set, NULL, &none, &limit) != 1 || !FD_ISSET(fd, &set) ||
	    limit.tv_sec > 99 || limit.tv_sec < 50)
		_exit(5);
}

static void wait_by_pselect(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(fd, &set);
	if (pselect(fd + 1, &set, NULL, NULL, NULL, NULL) != 1 || !FD_ISSET(fd, &set))
		_exit(5);
}

/* Two workers die with connections in their members, and another process waits otherwise. */
static void outlived_by_one_that(void (*waits)(void))
{
	int conns[8];

	start_workers(2);
	await_local(0, 1);
	pause_worker(0);
	pause_worker(1);
	for (int i = 0; i < 8; i++)
		conns[i] = connect_on(i % 2, &a);
	assert_int_equal(waiting_in_listener(), 0);
	workers[2] = fork();
	assert_ok(workers[2]);
	if (!workers[2]) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			waits();
			greet_all('2', accept_by_name);
		}
	}
	usleep(20000);
	kill_worker(0);
	kill_worker(1);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(greeting(conns[i]), '2');
		close(conns[i]);
	}
	for (int i = 0; i < 8; i++)
		assert_int_equal(ask(i % 2), '2');
}

static void test_outlived_by_poll(void **state)
{
	(void)state;
	outlived_by_one_that(wait_by_poll);
}

static void test_outlived_by_ppoll(void **state)
{
	(void)state;
	outlived_by_one_that(wait_by_ppoll);
}

static void test_outlived_by_select(void **state)
{
	(void)state;
	outlived_by_one_that(wait_by_select);
}

static void test_outlived_by_pselect(void **state)
{
	(void)state;
	outlived_by_one_that(wait_by_pselect);
}

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

/* A signal ends a wait by poll(), and no wait ends before its time. */
static void test_waits_by_poll(void **state)
{
	struct itimerval timer = { .it_value.tv_usec = 3000, .it_interval.tv_usec = 3000 };
	static const struct itimerval no_timer;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct sigaction action = { .sa_handler = tick };
	struct timespec began, now;
	int ends = 0;

	(void)state;
	start_workers(2);
	for (int ms = 1; ms < 300; ms = ms * 3 + 1) {
		clock_gettime(CLOCK_MONOTONIC, &began);
		assert_int_equal(poll(&p, 1, ms), 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
		assert_true((now.tv_sec - began.tv_sec) * 1000000000LL + now.tv_nsec -
			    began.tv_nsec >= ms * 1000000LL);
	}
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &timer, NULL));
	while (ends < 200) {
		assert_errno(poll(&p, 1, -1), EINTR);
		ends++;
	}
	setitimer(ITIMER_REAL, &no_timer, NULL);
	assert_true(ticks >= ends);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_accept_by_number),
		T(test_accept_unseen),
		T(test_accept_unseen_beside_another),
		T(test_stopped_while_it_waits),
		T(test_dead_and_not_reaped),
		T(test_stopped_before_others_came),
		T(test_number_used_again),
		T(test_one_event_of_one_registration),
		T(test_outlived_by_poll),
		T(test_outlived_by_ppoll),
		T(test_outlived_by_select),
		T(test_outlived_by_pselect),
		T(test_waits_by_poll),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
