// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: a signal handler closes a worker's listener, as Apache's
 * workers do at a reload, or its epoll instance, or forks, while the library looks after the other
 * workers.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_handlers [NAME]
 */
#include "helpers.h"

/* Longer than a worker goes without looking up: LOOK() in library/route.h. */
#define LOOK_MS 110

static int fd, epoll;
static union address a;
static pid_t other;
/* The number of readings of the clock until the handler comes; 0: it does not come. */
static int until;
static long readings;
/* What the handler closes. */
static int *victim;

/* The library reads this clock whenever it looks after workers: there the handler comes. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	readings += clock == CLOCK_MONOTONIC_COARSE;
	if (clock == CLOCK_MONOTONIC_COARSE && until && !--until)
		raise(SIGUSR1);
	return syscall(SYS_clock_gettime, clock, now);
}

/* The library's clock, which may lag behind others. */
static long library_ms(void)
{
	struct timespec now;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

static void close_victim(int signal)
{
	(void)signal;
	close(*victim);
	*victim = -1;
}

static void watch_listener(void)
{
	struct epoll_event event = { .events = EPOLLIN };

	epoll = epoll_create1(0);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static void accept_all(int timeout)
{
	struct epoll_event event;
	int conn;

	epoll_wait(epoll, &event, 1, timeout);
	while ((conn = accept(fd, NULL, NULL)) >= 0)
		close(conn);
}

static void start_other_worker(void)
{
	other = fork();
	assert_ok(other);
	if (other)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	watch_listener();
	for (;;)
		accept_all(-1);
}

/* Starts a server of two workers, of which this process is one. */
static void start(void)
{
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	start_other_worker();
	watch_listener();
	for (int i = 0; i < 4000 && pinned_cpu() < 0; i++) {
		close(connect_on(i % 2, &a));
		accept_all(1);
	}
	assert_true(pinned_cpu() >= 0);
}

static void stop(void)
{
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	if (epoll >= 0)
		close(epoll);
	if (fd >= 0)
		close(fd);
	unpin();
}

/* The handler comes at the first reading of the clock in a wait, then at the second, and so on. */
static void interrupt(int *what)
{
	struct sigaction action = { .sa_handler = close_victim };
	struct epoll_event event;
	int moment = 0;
	bool came;
	long began;

	victim = what;
	assert_ok(sigaction(SIGUSR1, &action, NULL));
	do {
		start();
		began = library_ms();
		await(library_ms() - began >= LOOK_MS);
		until = ++moment;
		epoll_wait(epoll, &event, 1, 0);
		came = !until;
		until = 0;
		assert_true(!came || *victim == -1);
		/* The library gives a thread that waits no longer no connection. */
		epoll_wait(epoll, &event, 1, 2);
		stop();
	} while (came);
	/* The library has looked at both workers. */
	assert_true(moment > 4);
}

static void test_handler_closes_listener(void **state)
{
	(void)state;
	interrupt(&fd);
}

static void test_handler_closes_instance(void **state)
{
	(void)state;
	interrupt(&epoll);
}

static pid_t child;

static void fork_here(int signal)
{
	(void)signal;
	child = fork();
}

/* The child that the handler has forked waits on, and sleeps meanwhile. */
static void test_handler_forks(void **state)
{
	struct sigaction action = { .sa_handler = fork_here };
	struct epoll_event event;
	int moment = 0, status;
	bool came;
	long began;

	(void)state;
	assert_ok(sigaction(SIGUSR1, &action, NULL));
	start();
	do {
		began = library_ms();
		await(library_ms() - began >= LOOK_MS);
		child = -1;
		readings = 0;
		until = ++moment;
		epoll_wait(epoll, &event, 1, 200);
		came = !until;
		until = 0;
		if (came && !child)
			/* It looks up ten times a second. */
			_exit(readings > 300);
		if (came) {
			assert_int_equal(waitpid(child, &status, 0), child);
			assert_int_equal(status, 0);
		}
	} while (came && moment < 20);
	assert_true(moment > 4);
	stop();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(name)
		T(test_handler_closes_listener),
		T(test_handler_closes_instance),
		T(test_handler_forks),
	};

	alarm(95);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
