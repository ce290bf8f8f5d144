// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: how long its workers wait and what ends a wait, threads, and
 * what it does with shared memory or limits that a program has spoilt.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_waits [NAME]
 */
#include "kernel_orders.h"

#include <sys/resource.h>

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

/* A signal ends the wait, however often the library looks up. */
static void test_signals(void **state)
{
	struct itimerval timer = { .it_value.tv_usec = 7000, .it_interval.tv_usec = 7000 };
	struct sigaction action = { .sa_handler = tick };
	int epoll = epoll_create1(0), ends = 0;
	struct epoll_event event;

	(void)state;
	start_worker(1);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (int i = 0; i < 400 && pinned_cpu() < 0; i++) {
		ask(i % 2);
		epoll_wait(epoll, &event, 1, 1);
	}
	assert_true(pinned_cpu() >= 0);
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &timer, NULL));
	while (ends < 200) {
		errno = 0;
		if (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR)
			ends++;
	}
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	/* A second signal may come before the first is reported. */
	assert_true(ticks >= ends);
	close(epoll);
}

static void test_time_of_waits(void **state)
{
	static const int waits[] = { 1, 30, 100, 250 };
	int epoll = epoll_create1(0);
	struct epoll_event event;
	long began;

	(void)state;
	start_worker(1);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (int i = 0; i < 400 && pinned_cpu() < 0; i++) {
		ask(i % 2);
		epoll_wait(epoll, &event, 1, 1);
		while (accept(fd, NULL, NULL) >= 0)
			;
	}
	for (int i = 0; i < 4; i++) {
		began = now_ms();
		assert_int_equal(epoll_wait(epoll, &event, 1, waits[i]), 0);
		assert_true(now_ms() - began >= waits[i] - 1);
	}
	close(epoll);
}

/* The memory that the processes of a server share, of the newest group; size: of the mapping. */
static uint64_t *shared_memory(size_t *size)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long begin, end, inode, newest = 0;
	uint64_t *found = NULL;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/memfd:fsocket-route") &&
		    sscanf(line, "%lx-%lx %*s %*s %*s %lu", &begin, &end, &inode) == 3 &&
		    inode > newest) {
			newest = inode;
			found = (uint64_t *)begin;
			*size = end - begin;
		}
	fclose(maps);
	assert_non_null(found);
	return found;
}

/* Writes nonsense over the memory and back again for as long as it lives. */
static void write_nonsense(uint64_t *memory, size_t size)
{
	uint64_t *before = malloc(size), seed = 1, *at;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memcpy(before, memory, size);
	for (;;) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		/* Most writes go to the first page, which has all but most workers' claims. */
		at = memory + (seed >> 33) % ((seed >> 20 & 3 ? 4096 : size) / sizeof(*at));
		*at = seed >> 24 & 3 ? before[at - memory] :
		      seed >> 28 & 1 ? 0x4141414141414141 : seed * 0x9e3779b97f4a7c15;
	}
}

/* A process that has given up rights may still write to the group's memory. */
static void test_hostile_process(void **state)
{
	size_t size;
	uint64_t *memory = shared_memory(&size);
	struct epoll_event event;
	pid_t hostile;
	int epoll, conn;

	(void)state;
	start_workers(WORKERS);
	hostile = fork();
	if (!hostile)
		write_nonsense(memory, size);
	for (int i = 0; i < 2000; i++) {
		epoll = epoll_create1(0);
		assert_ok(epoll);
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
		epoll_wait(epoll, &event, 1, 1);
		conn = accept(fd, NULL, NULL);
		if (conn >= 0)
			close(conn);
		close(epoll);
	}
	kill(hostile, SIGKILL);
	waitpid(hostile, NULL, 0);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(waitpid(workers[i].pid, NULL, WNOHANG), 0);
}

static int threads_run;

static void *thread_main(void *letter)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;

	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	while (__atomic_load_n(&threads_run, __ATOMIC_RELAXED))
		if (epoll_wait(epoll, &event, 1, 50) == 1)
			greet_all(*(char *)letter);
	close(epoll);
	return NULL;
}

static void test_threads(void **state)
{
	static char letters[] = "01";
	pthread_t threads[2];
	bool seen[2] = { false };
	char letter;

	(void)state;
	threads_run = 1;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, thread_main, &letters[i]), 0);
	for (int i = 0; i < 400; i++) {
		letter = ask(i % 2);
		assert_true(letter == '0' || letter == '1');
		if (i > 200)
			seen[letter - '0'] = true;
	}
	__atomic_store_n(&threads_run, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(seen[0] && seen[1]);
}

/* accept() of a blocking listener may wait, so that listener keeps its one queue. */
static void test_blocking_listener(void **state)
{
	(void)state;
	fcntl(fd, F_SETFL, 0);
	start_worker(0);
	start_worker(1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(cpu_of(workers[i].pid), -1);
}

static void test_few_descriptors(void **state)
{
	struct rlimit old, few = { .rlim_cur = 12, .rlim_max = 12 };
	union address b;
	int other;

	(void)state;
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	few.rlim_max = old.rlim_max;
	assert_ok(setrlimit(RLIMIT_NOFILE, &few));
	other = listener(AF_INET6, &b);
	close(connect_on(0, &b));
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	close(other);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_signals),
		T(test_time_of_waits),
		T(test_hostile_process),
		T(test_threads),
		T(test_blocking_listener),
		T(test_few_descriptors),
	};

	alarm(95);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
