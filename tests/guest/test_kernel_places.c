// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: workers that have to share a CPU, and move to another one when
 * that has too few.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_places [NAME]
 */
#include "kernel_workers.h"

/* From now on this program and its children may use two CPUs. */
static void use_two_cpus(void)
{
	cpu_set_t two;

	CPU_ZERO(&two);
	CPU_SET(0, &two);
	CPU_SET(1, &two);
	assert_ok(sched_setaffinity(0, sizeof(two), &two));
}

/*
 * Three workers share two CPUs, and the one that is alone on its CPU ends. Then one of the others
 * moves there, and no connection is lost.
 */
static void end_the_one_alone(void)
{
	int alone = 0, left[2], count = 0;

	await_workers(0, 2);
	for (int i = 0; i < 3; i++)
		if (cpu_of(workers[i]) != cpu_of(workers[(i + 1) % 3]) &&
		    cpu_of(workers[i]) != cpu_of(workers[(i + 2) % 3]))
			alone = i;
	for (int i = 0; i < 3; i++)
		if (i != alone)
			left[count++] = workers[i];
	assert_int_equal(cpu_of(left[0]), cpu_of(left[1]));
	kill_worker(alone);
	for (int i = 0; i < 4000 && cpu_of(left[0]) == cpu_of(left[1]); i++) {
		assert_true(ask(i % 2));
		usleep(1000);
	}
	assert_int_equal(cpu_of(left[0]) + cpu_of(left[1]), 1);
	for (int i = 0; i < 100; i++)
		assert_true(ask(i % 2));
}

static void test_two_left_on_one_cpu(void **state)
{
	(void)state;
	use_two_cpus();
	start_workers(3);
	end_the_one_alone();
}

static void start_worker_of_two(int i, int other)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll;

	workers[i] = fork();
	assert_ok(workers[i]);
	if (workers[i])
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	epoll = watch_listener();
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event))
		_exit(4);
	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			greet_all('0' + i, accept_by_name);
}

/* The same with workers that wait for a second listener, which they serve on the same CPU. */
static void test_two_of_two_listeners_left(void **state)
{
	union address second;
	int other = listener(AF_INET, &second);

	(void)state;
	set_nonblock(other);
	use_two_cpus();
	for (int i = 0; i < 3; i++)
		start_worker_of_two(i, other);
	end_the_one_alone();
	close(other);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_two_left_on_one_cpu),
		T(test_two_of_two_listeners_left),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
