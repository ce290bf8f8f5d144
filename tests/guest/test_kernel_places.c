// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: workers that have to share a CPU, and move to another one when
 * that has too few.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_places [NAME]
 */
#include "kernel_workers.h"

#include <linux/seccomp.h>
#include <stdatomic.h>

/* From now on this program and its children may use two CPUs. */
static void use_two_cpus(void)
{
	cpu_set_t two;

	CPU_ZERO(&two);
	CPU_SET(0, &two);
	CPU_SET(1, &two);
	assert_ok(sched_setaffinity(0, sizeof(two), &two));
}

/* Three workers share two CPUs: returns the one that is alone on its CPU, and stores the others. */
static int find_the_one_alone(int left[2])
{
	int alone = 0, count = 0;

	for (int i = 0; i < 3; i++)
		if (cpu_of(workers[i]) != cpu_of(workers[(i + 1) % 3]) &&
		    cpu_of(workers[i]) != cpu_of(workers[(i + 2) % 3]))
			alone = i;
	for (int i = 0; i < 3; i++)
		if (i != alone)
			left[count++] = workers[i];
	assert_int_equal(cpu_of(left[0]), cpu_of(left[1]));
	return alone;
}

/* That one ends. Then one of the others moves there, and no connection is lost. */
static void end_the_one_alone(void)
{
	int left[2];

	await_workers(0, 2);
	kill_worker(find_the_one_alone(left));
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
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	epoll = watch_listener();
	watch_for(epoll, other, EPOLLIN);
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

/*
 * Each worker also waits for a listener of its own, for which it is the only worker and so has no
 * member. It is one worker of the CPU like the others.
 */
static void test_two_left_with_listeners_of_their_own(void **state)
{
	union address own;
	int others[3];

	(void)state;
	use_two_cpus();
	for (int i = 0; i < 3; i++) {
		others[i] = listener(AF_INET, &own);
		set_nonblock(others[i]);
		start_worker_of_two(i, others[i]);
	}
	end_the_one_alone();
	for (int i = 0; i < 3; i++)
		close(others[i]);
}

/* Starts a worker of the listener alone, or of another one, too, and returns when it has waited. */
static pid_t start_idle_worker_of(int other)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll, ready[2];
	char byte = 'r';
	pid_t pid;

	assert_ok(pipe(ready));
	pid = fork();
	assert_ok(pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		epoll = watch_listener();
		if (other >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event))
			_exit(4);
		epoll_wait(epoll, &event, 1, 1);
		if (write(ready[1], &byte, 1) != 1)
			_exit(1);
		for (;;)
			epoll_wait(epoll, &event, 1, -1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

/*
 * Three workers of one listener may use CPU 1 only, and three others of two listeners come, which
 * choose CPU 0 for the first listener. When they count the second one, too, one of them has to
 * move, and then they rest: a worker that chooses again makes the library read a file.
 */
static void test_workers_of_different_listeners_rest(void **state)
{
	long before = 0, after = 0;
	union address second;
	int other = listener(AF_INET, &second);
	pid_t pids[6];

	(void)state;
	set_nonblock(other);
	for (int i = 0; i < 6; i++) {
		if (i == 0)
			pin(1);
		if (i == 3)
			use_two_cpus();
		pids[i] = start_idle_worker_of(i < 3 ? -1 : other);
	}
	let_others_see();
	for (int i = 3; i < 6; i++)
		before += reads(pids[i]);
	sleep(2);
	for (int i = 3; i < 6; i++) {
		after += reads(pids[i]);
		assert_true(cpu_of(pids[i]) >= 0);
	}
	for (int i = 0; i < 6; i++) {
		kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	close(other);
	assert_in_range(after - before, 0, 20);
}

/*
 * From now on the kernel refuses each CPU, as it does with one that is offline, or that the cpuset
 * has no more. The library must not see this filter, since it would make no worker then.
 */
static void refuse_cpus(int signal)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = code };

	(void)signal;
	if (call_inline(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    call_inline(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, (long)&program, 0, 0))
		_exit(6);
}

/*
 * A worker that shares its CPU stays there if it cannot run on the other one. Otherwise connections
 * of that CPU would wait for this worker alone, which has to run where it was.
 */
static void test_cpu_refused(void **state)
{
	int alone, left[2], conn;

	(void)state;
	use_two_cpus();
	set_late("300");
	signal(SIGUSR1, refuse_cpus);
	start_workers(3);
	signal(SIGUSR1, SIG_DFL);
	alone = find_the_one_alone(left);
	for (int i = 0; i < 2; i++)
		assert_ok(kill(left[i], SIGUSR1));
	assert_ok(kill(workers[alone], SIGTERM));
	assert_int_equal(waitpid(workers[alone], NULL, 0), workers[alone]);
	workers[alone] = 0;
	for (int i = 0; i < 300; i++) {
		assert_true(ask(i % 2));
		usleep(10000);
	}
	for (int i = 0; i < 4; i++) {
		pause_process(left[i / 2]);
		conn = connect_on(i % 2, &a);
		assert_int_equal(readable(conn, 5000), 1);
		close(conn);
		kill(left[i / 2], SIGCONT);
	}
}

/* What the workers of one test share. */
struct told {
	atomic_int hold, held;
};

/*
 * A worker as those of nginx: of those that wait for a socket, the kernel wakes one. Once told to
 * hold, the first that is woken does not accept, and goes on when told so.
 */
static void start_exclusive_worker(int i, struct told *told)
{
	struct epoll_event event;
	int epoll = epoll_create1(0), nobody;

	if (!is_worker(i)) {
		close(epoll);
		return;
	}
	signal(SIGTERM, leave);
	watch_for(epoll, fd, EPOLLIN | EPOLLEXCLUSIVE);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		nobody = 0;
		if (atomic_load(&told->hold) &&
		    atomic_compare_exchange_strong(&told->held, &nobody, getpid())) {
			while (atomic_load(&told->hold))
				usleep(1000);
			continue;
		}
		greet_all('0' + i, accept_by_name);
	}
}

/*
 * The kernel has woken one of two workers of a member for a connection. That one moves before it
 * accepts, and the other one sleeps and knows of no connection.
 */
static void test_connection_left_behind(void **state)
{
	struct told *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				 -1, 0);
	int alone, left[2], conn;

	(void)state;
	assert_ptr_not_equal(told, MAP_FAILED);
	use_two_cpus();
	set_late("1000");
	/* The first one sleeps and looks for no others, so it has to be the first that is woken. */
	for (int i = 0; i < 3; i++) {
		start_exclusive_worker(i, told);
		assert_true(ask(0));
	}
	await_workers(0, 2);
	await_local(0, 2);
	alone = find_the_one_alone(left);
	atomic_store(&told->hold, 1);
	conn = connect_on(cpu_of(left[0]), &a);
	/* A worker that has just answered accepts until nothing waits, so it may take this one unwoken. */
	for (int i = 0; i < 5; i++) {
		await(atomic_load(&told->held) || readable(conn, 0) == 1);
		if (atomic_load(&told->held))
			break;
		close(conn);
		conn = connect_on(cpu_of(left[0]), &a);
	}
	await(atomic_load(&told->held));
	assert_int_equal(waiting_in_listener(), 0);
	assert_ok(kill(workers[alone], SIGTERM));
	assert_int_equal(waitpid(workers[alone], NULL, 0), workers[alone]);
	workers[alone] = 0;
	atomic_store(&told->hold, 0);
	assert_int_equal(readable(conn, 5000), 1);
	close(conn);
	munmap(told, 4096);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_two_left_on_one_cpu),
		T(test_two_of_two_listeners_left),
		T(test_two_left_with_listeners_of_their_own),
		T(test_workers_of_different_listeners_rest),
		T(test_cpu_refused),
		T(test_connection_left_behind),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
