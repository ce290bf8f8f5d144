// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: processes of a server that are no workers, as they wait
 * by poll() or select(), or have confined themselves.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_others [NAME]
 */
#include "kernel_workers.h"

#include <linux/seccomp.h>

static void wait_by_poll(void)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, -1) != 1 || p.revents != POLLIN)
		_exit(5);
}

/* Textbooks ask for this. */
static void wait_by_poll_for_normal_data(void)
{
	struct pollfd p = { .fd = fd, .events = POLLRDNORM };

	if (poll(&p, 1, -1) != 1 || p.revents != POLLRDNORM)
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

/* Stops both workers, and makes connections that wait in their members. */
static void connect_behind_stopped_workers(int conns[8])
{
	pause_worker(0);
	pause_worker(1);
	for (int i = 0; i < 8; i++)
		conns[i] = connect_on(i % 2, &a);
	assert_int_equal(waiting_in_listener(), 0);
}

/* Two workers die with connections in their members, and another process waits otherwise. */
static void outlived_by_one_that(void (*waits)(void))
{
	int conns[8];

	start_workers(2);
	await_local(0, 1);
	connect_behind_stopped_workers(conns);
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

static void test_outlived_by_poll_for_normal_data(void **state)
{
	(void)state;
	outlived_by_one_that(wait_by_poll_for_normal_data);
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

/* The kernel leaves a constant limit alone, and so does the library. glibc 2.34 writes there. */
static void test_select_with_a_constant_limit(void **state)
{
	static const struct timeval brief = { .tv_usec = 1000 };
	fd_set set;

	(void)state;
	start_workers(2);
	FD_ZERO(&set);
	FD_SET(fd, &set);
	assert_int_equal(select(fd + 1, &set, NULL, NULL, (struct timeval *)&brief), 0);
}

/* A process without threads is alone with its descriptors, so a new table changes nothing. */
static void test_new_table_of_one_thread(void **state)
{
	(void)state;
	assert_ok(unshare(CLONE_FILES));
	assert_ok(syscall(SYS_close_range, 1000000, ~0U, 2 /* CLOSE_RANGE_UNSHARE */));
	start_workers(2);
	await_local(0, 1);
}

/* A child of vfork() has a socket of another kind under the number of the listener. */
static void test_vfork_and_unix_socket(void **state)
{
	pid_t child = vfork();
	int status;

	(void)state;
	if (!child) {
		close(fd);
		_exit(socket(AF_UNIX, SOCK_STREAM, 0) != fd);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	start_workers(2);
	await_local(0, 1);
}

static volatile sig_atomic_t order;

static void take_order(int signal)
{
	order = signal;
}

/* Allows what this worker calls itself, and getpid(), which close() of a listener needs. */
static void confine(void)
{
	static const int allowed[] = { SYS_epoll_wait, SYS_accept, SYS_write, SYS_close,
				       SYS_rt_sigreturn, SYS_getpid, SYS_pause };
	struct sock_filter code[32], *c = code;
	struct sock_fprog program = { .filter = code };

	*c++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					    offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++) {
		*c++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	*c++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	program.len = c - code;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(6);
}

/* Orders: SIGUSR1 to confine itself, SIGUSR2 to close the listener and write a byte. */
static void start_confinable(int i, int done)
{
	struct sigaction action = { .sa_handler = take_order };
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	epoll = watch_listener();
	for (;;) {
		int count = epoll_wait(epoll, &event, 1, -1);

		if (order == SIGUSR1)
			confine();
		if (order == SIGUSR2) {
			close(fd);
			if (write(done, "c", 1) != 1)
				_exit(3);
			for (;;)
				pause();
		}
		order = 0;
		if (count == 1)
			greet_all('0' + i, accept_by_name);
	}
}

/* All workers confine themselves while connections wait in their members; then they close. */
static void test_confined(void **state)
{
	int conns[8], done[2], probe;
	char byte;

	(void)state;
	assert_ok(pipe(done));
	start_confinable(0, done[1]);
	start_confinable(1, done[1]);
	await_workers(0, 1);
	await_local(0, 1);
	connect_behind_stopped_workers(conns);
	close(fd);
	for (int i = 0; i < 2; i++) {
		kill(workers[i], SIGUSR1);
		kill(workers[i], SIGCONT);
	}
	for (int i = 0; i < 8; i++) {
		assert_true(greeting(conns[i]));
		close(conns[i]);
	}
	answer_all(2);
	for (int i = 0; i < 2; i++) {
		struct pollfd closed = { .fd = done[0], .events = POLLIN };

		/* The worker may miss a signal between two waits, so send it again. */
		do {
			assert_ok(kill(workers[i], SIGUSR2));
		} while (!poll(&closed, 1, 100));
		assert_int_equal(read(done[0], &byte, 1), 1);
	}
	probe = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(connect(probe, &a.sa, address_len(&a)), ECONNREFUSED);
	close(probe);
	close(done[0]);
	close(done[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_outlived_by_poll),
		T(test_outlived_by_poll_for_normal_data),
		T(test_outlived_by_ppoll),
		T(test_outlived_by_select),
		T(test_outlived_by_pselect),
		T(test_waits_by_poll),
		T(test_select_with_a_constant_limit),
		T(test_new_table_of_one_thread),
		T(test_vfork_and_unix_socket),
		T(test_confined),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
