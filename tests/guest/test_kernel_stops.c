// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what becomes of a group of which one worker is left, or whose members
 * no longer do what the program has asked of its listener.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_stops [NAME]
 * As a test of the kernel alone, without the library, it passes, too.
 */
#include "kernel_workers.h"
#include "../../library/route.h"

#include <stdatomic.h>

/* Returns what the library has noted of the listener's group; NULL if there is none. */
static const struct route *route(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	const struct route *found = NULL, *r;
	unsigned long begin;
	char line[512];
	struct stat file;

	assert_non_null(maps);
	assert_ok(fstat(fd, &file));
	while (fgets(line, sizeof(line), maps)) {
		if (!strstr(line, "/memfd:fsocket-route") || sscanf(line, "%lx", &begin) != 1)
			continue;
		r = (const struct route *)begin;
		if (r->inode == file.st_ino)
			found = r;
	}
	fclose(maps);
	return found;
}

/* If there is a group, waits until connections of both CPUs go to the members of two workers. */
static void await_members(void)
{
	if (!route())
		return;
	await_workers(0, 1);
	await_local(0, 1);
}

static void start_two(void)
{
	for (int i = 0; i < 2; i++)
		start_worker(i, accept_by_name);
	await_members();
}

/* Returns the CPU whose connections the worker gets; without a group, any. */
static int home(int i)
{
	int cpu = cpu_of(workers[i]);

	return cpu < 0 ? i : cpu;
}

static bool looks(const struct route *r, pid_t pid)
{
	for (int i = 0; i < claims_of(r); i++)
		if (r->claims[i].owner && r->claims[i].pid == pid)
			return r->claims[i].looks;
	return false;
}

/* Waits until the worker looks after the others no longer, as one that is left alone, after seconds. */
static void await_rest(int i)
{
	const struct route *r = route();

	await(!r || !looks(r, workers[i]));
}

/* Waits until the process sleeps in accept(). */
static void await_accept(pid_t pid)
{
	char path[64];
	long call = -1;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (int tries = 0; call != SYS_accept && call != SYS_accept4; tries++) {
		FILE *file = fopen(path, "r");

		if (!file)
			skip();
		assert_in_range(tries, 0, 3000);
		/* Of a process that runs it says so, and no number. */
		if (fscanf(file, "%ld", &call) != 1)
			call = -1;
		fclose(file);
		usleep(10000);
	}
}

/*
 * With TCP_DEFER_ACCEPT a handshake ends when the client sends. The worker to which it was sent has
 * gone for long by then, and the other one, which has accepted others meanwhile, no longer looks for
 * what that has left.
 */
static void end_handshake_late(void)
{
	const int seconds = 60;
	int conn, other;

	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)));
	conn = connect_on(home(1), &a);
	kill_worker(1);
	await_rest(0);
	for (int i = 0; i < 3; i++) {
		other = connect_on(home(0), &a);
		assert_int_equal(write(other, "x", 1), 1);
		assert_int_equal(greeting(other), '0');
		close(other);
		/* It goes back to its wait. */
		let_others_see();
	}
	assert_int_equal(write(conn, "x", 1), 1);
	assert_int_equal(greeting(conn), '0');
	close(conn);
}

static void test_handshake_ends_late(void **state)
{
	(void)state;
	start_two();
	end_handshake_late();
}

/* nginx does this after every 16th connection, so that others get some, too. */
static void start_reordering_worker(int i)
{
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	epoll = watch_listener();
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		greet_all('0' + i, accept_by_name);
		if (epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL))
			_exit(4);
		watch_for(epoll, fd, EPOLLIN);
	}
}

static void test_handshake_ends_late_after_reordering(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		start_reordering_worker(i);
	await_members();
	end_handshake_late();
}

/* What the processes of a test share. */
static struct {
	atomic_bool told;
	atomic_uint waits;
	/* Worker 0 holds what it does when it is woken. */
	atomic_bool hold, held;
} *shared;

static void share(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(shared, MAP_FAILED);
}

/* The program imports accept(), but this worker does not call it. */
static void start_unseen_worker(int i)
{
	struct epoll_event event;
	int epoll;

	workers[i] = fork();
	assert_ok(workers[i]);
	if (workers[i])
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	epoll = watch_listener();
	for (;;) {
		bool found = epoll_wait(epoll, &event, 1, -1) == 1;

		atomic_fetch_add(&shared->waits, 1);
		if (found)
			greet_all('0' + i, accept_inline);
	}
}

/*
 * The system calls of the worker that is left take nothing from the members, so what ends its handshake
 * there must not wake it without end.
 */
static void test_no_spin_for_others(void **state)
{
	const int seconds = 60;
	unsigned int waits;
	int conn, first;

	(void)state;
	share();
	start_unseen_worker(0);
	start_worker(1, accept_by_name);
	for (int i = 0; i < 2; i++) {
		first = connect_on(i, &a);
		assert_true(greeting(first));
		close(first);
	}
	await(!route() || cpu_of(workers[1]) >= 0);
	let_others_see();
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)));
	conn = connect_on(home(1), &a);
	kill_worker(1);
	await_rest(0);
	assert_int_equal(write(conn, "x", 1), 1);
	let_others_see();
	waits = atomic_load(&shared->waits);
	let_others_see();
	assert_in_range(atomic_load(&shared->waits) - waits, 0, 100);
	close(conn);
	munmap(shared, sizeof(*shared));
}

/* Takes one connection at a time, as nginx does. */
static void start_exclusive_worker(int i)
{
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	epoll = epoll_create1(0);
	watch_for(epoll, fd, EPOLLIN | EPOLLEXCLUSIVE);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		while (!i && atomic_load(&shared->hold)) {
			atomic_store(&shared->held, true);
			usleep(1000);
		}
		greet_one('0' + i, accept_by_name);
	}
}

/*
 * The kernel has woken the worker that was left for a connection of one that has come meanwhile, and
 * nobody else. That one gets its share afterwards.
 */
static void test_joined_while_woken(void **state)
{
	int ours, others, share_of_new = 0;

	(void)state;
	share();
	for (int i = 0; i < 2; i++)
		start_exclusive_worker(i);
	await_members();
	kill_worker(1);
	await_rest(0);
	assert_int_equal(ask(home(0)), '0');
	start_exclusive_worker(1);
	await(!route() || cpu_of(workers[1]) >= 0);
	usleep(150000);
	atomic_store(&shared->hold, true);
	others = connect_on(home(1), &a);
	await(atomic_load(&shared->held) || readable(others, 0) == 1);
	ours = connect_on(home(0), &a);
	usleep(30000);
	atomic_store(&shared->hold, false);
	assert_true(greeting(others));
	assert_true(greeting(ours));
	close(others);
	close(ours);
	for (int i = 0; i < 200; i++)
		share_of_new += ask(home(1)) == '1';
	assert_true(!route() || share_of_new);
	munmap(shared, sizeof(*shared));
}

/* One that comes after the worker has been left alone, and then one with another worker beside it. */
static void test_left_alone_and_joined(void **state)
{
	(void)state;
	start_two();
	kill_worker(1);
	await_rest(0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(ask(i % 2), '0');
	start_worker(1, accept_by_name);
	await_members();
	answer_all(2);
}

/* No connection wakes the worker that has been alone until now. */
static void test_alone_and_joined(void **state)
{
	(void)state;
	start_worker(0, accept_by_name);
	let_others_see();
	start_worker(1, accept_by_name);
	await(!route() || (cpu_of(workers[0]) >= 0 && cpu_of(workers[1]) >= 0));
	answer_all(2);
}

/* The worker waits for its instance in another one, and then in it for a short time. */
static void start_nested_worker(int i)
{
	struct epoll_event event;
	int inner, outer;

	if (!is_worker(i))
		return;
	inner = watch_listener();
	outer = epoll_create1(0);
	watch_for(outer, inner, EPOLLIN);
	for (;;)
		if (epoll_wait(outer, &event, 1, -1) == 1 && epoll_wait(inner, &event, 1, 5) == 1)
			greet_all('0' + i, accept_by_name);
}

/*
 * The worker that is left looks after the other's connections only when one of its own wakes it, and
 * that waits in the listener by then, since the worker is alone.
 */
static void test_left_beside_the_listener(void **state)
{
	int conn;

	(void)state;
	for (int i = 0; i < 2; i++)
		start_nested_worker(i);
	await_members();
	pause_worker(1);
	conn = connect_on(home(1), &a);
	kill_worker(1);
	let_others_see();
	await(ask(home(0)) == '0' && readable(conn, 0) == 1);
	assert_int_equal(greeting(conn), '0');
	close(conn);
}

static void start_worker_that_blocks_later(int i)
{
	struct epoll_event event;
	int epoll;

	if (!is_worker(i))
		return;
	epoll = watch_listener();
	while (!atomic_load(&shared->told))
		if (epoll_wait(epoll, &event, 1, 50) == 1)
			greet_all('0' + i, accept_by_name);
	greet_all('0' + i, accept_by_name);
	_exit(5);
}

/* Workers that have members end their epoll loop, and wait in accept() of the listener. */
static void test_listener_made_blocking(void **state)
{
	(void)state;
	share();
	for (int i = 0; i < 2; i++)
		start_worker_that_blocks_later(i);
	await_members();
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK));
	atomic_store(&shared->told, true);
	for (int i = 0; i < 2; i++)
		await_accept(workers[i]);
	for (int i = 0; i < 10; i++)
		assert_true(ask(i % 2));
	munmap(shared, sizeof(*shared));
}

/*
 * The kernel changes no program of a socket whose filter is locked, so the library could not say which
 * members still have a worker.
 */
static void test_filter_locked(void **state)
{
	const int on = 1;

	(void)state;
	start_two();
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on)));
	assert_int_equal(shared_of_two(0, 1), 2);
	kill_worker(1);
	await_rest(0);
	for (int i = 0; i < 6; i++)
		assert_int_equal(ask(i % 2), '0');
}

static void ask_for_signals(void)
{
	sigset_t io;

	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	assert_ok(sigprocmask(SIG_BLOCK, &io, NULL));
	assert_ok(fcntl(fd, F_SETOWN, getpid()));
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

/* Each connection sends this process a SIGIO. */
static void await_signals(void)
{
	const struct timespec none = { 0 }, long_time = { .tv_sec = 20 };
	sigset_t io;
	int conn;

	sigemptyset(&io);
	sigaddset(&io, SIGIO);
	for (int i = 0; i < 10; i++) {
		while (sigtimedwait(&io, NULL, &none) == SIGIO)
			;
		conn = connect_on(i % 2, &a);
		assert_int_equal(sigtimedwait(&io, NULL, &long_time), SIGIO);
		assert_true(greeting(conn));
		close(conn);
	}
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_ASYNC));
	while (sigtimedwait(&io, NULL, &none) == SIGIO)
		;
	assert_ok(sigprocmask(SIG_UNBLOCK, &io, NULL));
}

/* O_ASYNC is set before there are workers. */
static void test_signals_of_the_listener(void **state)
{
	(void)state;
	ask_for_signals();
	for (int i = 0; i < 2; i++)
		start_worker(i, accept_by_name);
	for (int i = 0; i < 400; i++)
		assert_true(ask(i % 2));
	await_signals();
}

static void test_signals_asked_for_later(void **state)
{
	(void)state;
	start_two();
	ask_for_signals();
	await_signals();
}

static void assert_queue(long (*ask_option)(struct tcp_info *info, socklen_t *len))
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	assert_ok(ask_option(&info, &len));
	assert_int_equal(info.tcpi_unacked, 6);
	assert_int_equal(info.tcpi_sacked, 512);
}

static long by_name(struct tcp_info *info, socklen_t *len)
{
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, len);
}

static long by_number(struct tcp_info *info, socklen_t *len)
{
	return syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, info, len);
}

/* A server reads there how many connections wait for it. */
static void test_length_of_the_queue(void **state)
{
	uint32_t unacked = 7;
	struct tcp_info info;
	socklen_t len = offsetof(struct tcp_info, tcpi_unacked);
	int conns[6];

	(void)state;
	start_two();
	for (int i = 0; i < 2; i++)
		pause_worker(i);
	for (int i = 0; i < 6; i++)
		conns[i] = connect_on(i % 2, &a);
	assert_queue(by_name);
	assert_queue(by_number);
	/* What is stored behind the length that the program asks for stays. */
	info.tcpi_unacked = unacked;
	assert_ok(by_name(&info, &len));
	assert_int_equal(info.tcpi_unacked, unacked);
	for (int i = 0; i < 2; i++)
		kill(workers[i], SIGCONT);
	for (int i = 0; i < 6; i++) {
		assert_true(greeting(conns[i]));
		close(conns[i]);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_handshake_ends_late),
		T(test_handshake_ends_late_after_reordering),
		T(test_no_spin_for_others),
		T(test_joined_while_woken),
		T(test_left_alone_and_joined),
		T(test_alone_and_joined),
		T(test_left_beside_the_listener),
		T(test_listener_made_blocking),
		T(test_filter_locked),
		T(test_signals_of_the_listener),
		T(test_signals_asked_for_later),
		T(test_length_of_the_queue),
	};

	alarm(95);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
