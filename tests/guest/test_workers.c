// SPDX-License-Identifier: GPL-2.0-only
/*
 * Workers of a listener: when they are pinned, what their children inherit, how they
 * end, many at once. Runs in the guest as root with fastsocket.ko loaded. Usage:
 * test_workers [TEST]
 */
#include <stdatomic.h>

#include "worker.h"

/* --- a worker alone, and with others ------------------------------------------- */

static pid_t waiting_worker(int fd, int *ready)
{
	pid_t pid = fork();

	assert_ok(pid);
	if (!pid)
		serve_by_epoll(fd, -1, 'w', ready[1]);
	return pid;
}

static int cpus_of(pid_t pid)
{
	cpu_set_t set;

	assert_ok(sched_getaffinity(pid, sizeof(set), &set));
	return CPU_COUNT(&set);
}

/* Workers are pinned while there are two; their children are not. */
static void pinned_in_company(void **state)
{
	int ready[2], all = cpus_of(0), cpu;
	union address a;
	int fd = listener(AF_INET, &a);
	char byte;
	pid_t one, two;

	(void)state;
	assert_ok(pipe(ready));
	set_nonblock(fd);
	one = waiting_worker(fd, ready);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(cpus_of(one), all);
	two = waiting_worker(fd, ready);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(cpus_of(one), 1);
	assert_int_equal(cpus_of(two), 1);
	for (cpu = 0; cpu < 4; cpu++) {
		int client = connect_on(cpu, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	kill(one, SIGKILL);
	waitpid(one, NULL, 0);
	/* A work item may release it. */
	await(cpus_of(two) == all);
	for (cpu = 0; cpu < 4; cpu++) {
		int client = connect_on(cpu, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	kill(two, SIGKILL);
	waitpid(two, NULL, 0);
	close(fd);
}

/* A lone worker has no queue of its own, also if it is pinned, until another one comes. */
static void pinned_and_alone(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn;
	pid_t other;

	(void)state;
	pin(1);
	assert_ok(spawn(fd, -1));
	assert_int_equal(claims(&a), 1);
	assert_int_equal(host_of(&a, 1), -1);
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	close(conn);
	close(client);
	/* The other worker inherits what this one may run on. */
	unpin();
	other = worker(fd, 0, 'o', true);
	assert_int_equal(host_of(&a, 1), 1);
	kill_worker(other);
	await(host_of(&a, 1) < 0);
	/* A worker that names its CPU is no lone one, also if it has spawned before. */
	assert_ok(spawn(fd, 1));
	assert_int_equal(host_of(&a, 1), 1);
	client = connect_on(3, &a);
	close(accept(fd, NULL, NULL));
	close(client);
	usleep(100000);
	assert_int_equal(host_of(&a, 1), 1);
	close(fd);
}

/* In a group of the program's own, each listener has one worker, which serves its CPU. */
static void pinned_in_a_group(void **state)
{
	int one = 1, fd;
	union address a;

	(void)state;
	fd = bound_socket(AF_INET, &a);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(listen(fd, 10));
	pin(1);
	assert_ok(spawn(fd, -1));
	assert_int_equal(host_of(&a, 1), 1);
	close(fd);
	unpin();
}

/* Accepts one connection, greets, and is busy for ever. */
static pid_t accepts_one(int fd)
{
	pid_t pid = fork();
	int conn;

	assert_ok(pid);
	if (pid)
		return pid;
	conn = accept(fd, NULL, NULL);
	if (conn < 0 || write(conn, "u", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

/* Connections that move to the shared queue wake as many tasks as there are connections. */
static void all_are_woken(bool killed)
{
	int clients[3], fd, i;
	pid_t pids[3], lazy;
	union address a;

	fd = listener(AF_INET, &a);
	lazy = worker(fd, 0, 'l', true);
	for (i = 0; i < 3; i++)
		pids[i] = accepts_one(fd);
	usleep(100000);
	if (killed)
		kill(lazy, SIGSTOP);
	for (i = 0; i < 3; i++)
		clients[i] = connect_on(0, &a);
	if (killed)
		kill_worker(lazy);
	for (i = 0; i < 3; i++) {
		assert_int_equal(readable(clients[i], 5000), 1);
		assert_int_equal(greeting(clients[i]), 'u');
		close(clients[i]);
	}
	if (!killed)
		kill_worker(lazy);
	for (i = 0; i < 3; i++)
		kill_worker(pids[i]);
	close(fd);
}

static void all_are_woken_by_a_death(void **state)
{
	(void)state;
	all_are_woken(true);
}

static void all_are_woken_by_the_timer(void **state)
{
	(void)state;
	all_are_woken(false);
}

/* Claims all CPUs but the last, many times, as another user; then waits. */
static pid_t crowds(void)
{
	int last = sysconf(_SC_NPROCESSORS_ONLN) - 1, ready, cpu, i;
	pid_t pid = fork_until_ready(&ready);
	union address a;

	if (pid)
		return pid;
	if (setuid(65534))
		_exit(1);
	for (i = 0; i < 20; i++) {
		int fd = listener(AF_INET, &a);

		for (cpu = 0; cpu < last; cpu++) {
			/* A worker has one claim on a listener, so fork others. */
			int up;

			if (fork_until_ready(&up))
				continue;
			if (spawn(fd, cpu) || write(up, "r", 1) != 1)
				_exit(2);
			for (;;)
				pause();
		}
	}
	if (write(ready, "r", 1) != 1)
		_exit(3);
	for (;;)
		pause();
}

/* The workers of a listener do not share a CPU, whatever other users claim. */
static void apart_in_a_crowd(void **state)
{
	int ready[2], cpu[3], i;
	union address a;
	int fd = listener(AF_INET, &a);
	pid_t crowd = crowds(), pids[3];
	char byte;

	(void)state;
	assert_ok(pipe(ready));
	for (i = 0; i < 3; i++) {
		pids[i] = waiting_worker(fd, ready);
		assert_int_equal(read(ready[0], &byte, 1), 1);
	}
	for (i = 0; i < 3; i++) {
		cpu_set_t set;

		assert_ok(sched_getaffinity(pids[i], sizeof(set), &set));
		for (cpu[i] = 0; !CPU_ISSET(cpu[i], &set); cpu[i]++)
			;
	}
	for (i = 0; i < 3; i++)
		kill_worker(pids[i]);
	kill_worker(crowd);
	close(fd);
	assert_int_not_equal(cpu[0], cpu[1]);
	assert_int_not_equal(cpu[0], cpu[2]);
	assert_int_not_equal(cpu[1], cpu[2]);
}

/*
 * New workers come while the old ones leave, as at a reload of nginx: one old worker leaves
 * before the first of them chooses its CPU, and the others leave at the end.
 */
static void reload_uses_all_cpus(void **state)
{
	int all = cpus_of(0), ready[2], i, cpu;
	pid_t old[63], new[63];
	unsigned long used = 0;
	union address a;
	int fd = listener(AF_INET, &a);
	char byte;

	(void)state;
	assert_in_range(all, 2, 63);
	assert_ok(pipe(ready));
	for (i = 0; i < 2 * all; i++) {
		if (i == all)
			kill_worker(old[all / 2]);
		(i < all ? old : new)[i % all] = waiting_worker(fd, ready);
		assert_int_equal(read(ready[0], &byte, 1), 1);
	}
	for (i = 0; i < all; i++) {
		if (i != all / 2)
			kill_worker(old[i]);
		cpu = cpu_of(new[i]);
		assert_in_range(cpu, 0, all - 1);
		used |= 1UL << cpu;
	}
	for (i = 0; i < all; i++)
		kill_worker(new[i]);
	close(fd);
	assert_int_equal(used, (1UL << all) - 1);
}

/* Returns whether each CPU is that of two of the workers. */
static bool two_on_each_cpu(const pid_t *pids, int all)
{
	int count[63] = { 0 }, i, cpu;

	for (i = 0; i < 2 * all; i++) {
		cpu = cpu_of(pids[i]);
		assert_in_range(cpu, 0, all - 1);
		count[cpu]++;
	}
	for (cpu = 0; cpu < all; cpu++)
		if (count[cpu] != 2)
			return false;
	return true;
}

/*
 * Two workers for each CPU end one at a time, in any order, and others take their places, as
 * those of Gunicorn do after max_requests.
 */
static void replaced_on_the_same_cpu(void **state)
{
	int all = cpus_of(0), ready[2], i, at;
	bool even = true;
	union address a;
	int fd = listener(AF_INET, &a);
	pid_t pids[126];
	char byte;

	(void)state;
	assert_in_range(all, 2, 63);
	assert_ok(pipe(ready));
	for (i = 0; i < 2 * all; i++) {
		pids[i] = waiting_worker(fd, ready);
		assert_int_equal(read(ready[0], &byte, 1), 1);
	}
	/* The newest one is the first that ends. */
	for (i = 0; i < 4 * all && even; i++) {
		at = i ? rand() % (2 * all) : 2 * all - 1;
		kill_worker(pids[at]);
		pids[at] = waiting_worker(fd, ready);
		assert_int_equal(read(ready[0], &byte, 1), 1);
		even = two_on_each_cpu(pids, all);
	}
	for (i = 0; i < 2 * all; i++)
		kill_worker(pids[i]);
	close(fd);
	assert_true(even);
}

static void *count_cpus(void *arg)
{
	*(int *)arg = cpus_of(0);
	return NULL;
}

/*
 * A child, a thread, a program of a pinned worker may use the CPUs that the worker
 * could use before.
 */
static void children_are_free(void **state)
{
	int all = cpus_of(0), status, seen = 0;
	union address a;
	int fd = listener(AF_INET, &a);
	pthread_t thread;
	pid_t pid;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_int_equal(pinned_cpu(), 1);
	pid = fork();
	if (!pid)
		_exit(cpus_of(0));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), all);
	assert_int_equal(pthread_create(&thread, NULL, count_cpus, &seen), 0);
	pthread_join(thread, NULL);
	assert_int_equal(seen, all);
	/* The worker itself may use them again when it is no worker any more. */
	assert_ok(retire(fd));
	assert_int_equal(cpus_of(0), all);
	/* An affinity that the program has set since stays. */
	assert_ok(spawn(fd, 1));
	pin(2);
	assert_ok(retire(fd));
	assert_int_equal(pinned_cpu(), 2);
	unpin();
	close(fd);
}

static void *spawns_and_ends(void *arg)
{
	int *fd = arg;

	*fd = spawn(*fd, 1);
	return NULL;
}

/* A thread that has ended has no claim. */
static void dead_threads_go(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), ret = fd;
	unsigned long long retired = counter("retire", -1);
	pthread_t thread;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, spawns_and_ends, &ret), 0);
	pthread_join(thread, NULL);
	assert_int_equal(ret, 0);
	await(counter("retire", -1) != retired);
	assert_int_equal(counter("retire", -1), retired + 1);
	close(fd);
}

/* --- many at once --------------------------------------------------------------- */

#define ROUNDS 1000

struct crowd {
	atomic_int go, fd, failed;
	pthread_barrier_t met;
};

static void *spawns_in_a_crowd(void *arg)
{
	struct crowd *c = arg;
	volatile int wait;
	int round;

	for (round = 1; round <= ROUNDS; round++) {
		pthread_barrier_wait(&c->met);
		while (atomic_load(&c->go) != round)
			;
		/* This varies how the calls overlap. */
		for (wait = rand() % 400; wait > 0; wait--)
			;
		if (spawn(atomic_load(&c->fd), 0))
			atomic_fetch_add(&c->failed, 1);
		pthread_barrier_wait(&c->met);
	}
	return NULL;
}

/* Workers that are the first to want a local listener all get one, also at the same moment. */
static void first_together(void **state)
{
	struct crowd c = { 0 };
	pthread_t threads[3];
	union address a;
	int round, i;

	(void)state;
	pthread_barrier_init(&c.met, NULL, 4);
	for (i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, spawns_in_a_crowd, &c), 0);
	for (round = 1; round <= ROUNDS; round++) {
		atomic_store(&c.fd, listener(AF_INET, &a));
		pthread_barrier_wait(&c.met);
		atomic_store(&c.go, round);
		pthread_barrier_wait(&c.met);
		close(atomic_load(&c.fd));
	}
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&c.failed), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(pinned_in_company),
		T(pinned_and_alone),
		T(pinned_in_a_group),
		T(all_are_woken_by_a_death),
		T(all_are_woken_by_the_timer),
		T(apart_in_a_crowd),
		T(reload_uses_all_cpus),
		T(replaced_on_the_same_cpu),
		T(children_are_free),
		T(dead_threads_go),
		T(first_together),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
