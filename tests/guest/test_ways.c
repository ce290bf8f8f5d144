// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ways around libfsocket.so, which is preloaded into this program: listeners that it
 * never saw, numbers that mean something else, calls that fail or do not return.
 *
 *	LD_PRELOAD=libfsocket.so ./test_ways [NAME]
 */
#include "helpers.h"

#include <dlfcn.h>
#include <linux/audit.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <sys/resource.h>

static int put(int epoll, int op, int fd, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	return epoll_ctl(epoll, op, fd, &event);
}

/* Runs the rest of a test in a child, which has its own state; returns 0 if it has succeeded. */
static int in_child(void (*test)(void))
{
	pid_t pid = fork();
	int status;

	assert_ok(pid);
	if (!pid) {
		test();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

#define NEED(x) do { if (!(x)) { dprintf(2, "%s: %m\n", #x); _exit(__LINE__ % 255 + 1); } } while (0)

/* Returns the number of a listener's copy, made by calls that the library does not see. */
static int unseen_listener(union address *a)
{
	int fd = listener(AF_INET, a), copy = syscall(SYS_dup, fd);

	assert_ok(copy);
	close(fd);
	return copy;
}

static void unknown_listener_is_spawned(void **state)
{
	int epoll = epoll_create1(0), fd, client;
	struct epoll_event event;
	union address a;

	(void)state;
	fd = unseen_listener(&a);
	assert_ok(put(epoll, EPOLL_CTL_ADD, fd, EPOLLIN));
	assert_int_equal(claims(&a), 1);
	client = connect_on(1, &a);
	assert_int_equal(epoll_wait(epoll, &event, 1, 5000), 1);
	accept_and_greet(fd, 'u');
	assert_int_equal(greeting(client), 'u');
	close(client);
	close(fd);
	close(epoll);
}

/* Netty adds it first, then listens, then asks for EPOLLIN. */
static void added_before_it_listens(void **state)
{
	int epoll = epoll_create1(0), fd, client;
	unsigned long long taken;
	struct epoll_event event;
	union address a;

	(void)state;
	fd = bound_socket(AF_INET, &a);
	assert_ok(put(epoll, EPOLL_CTL_ADD, fd, EPOLLET));
	assert_ok(listen(fd, 10));
	assert_int_equal(claims(&a), 0);
	taken = counter("accept_global", -1);
	assert_ok(put(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET));
	assert_int_equal(claims(&a), 1);
	assert_ok(put(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET));
	assert_int_equal(claims(&a), 1);
	client = connect_on(1, &a);
	assert_int_equal(epoll_wait(epoll, &event, 1, 5000), 1);
	accept_and_greet(fd, 'n');
	assert_int_equal(greeting(client), 'n');
	assert_int_equal(counter("accept_global", -1) - taken, 1);
	close(client);
	close(fd);
	close(epoll);
}

static int shared_epoll, shared_fd;

static void *rearm(void *arg)
{
	assert_ok(put(shared_epoll, EPOLL_CTL_MOD, shared_fd, EPOLLIN | EPOLLONESHOT));
	return arg;
}

/* A thread that arms a listener which another one has added does not claim it. */
static void rearmed_by_another_thread(void **state)
{
	pthread_t thread;
	union address a;

	(void)state;
	shared_fd = listener(AF_INET, &a);
	shared_epoll = epoll_create1(0);
	assert_ok(put(shared_epoll, EPOLL_CTL_ADD, shared_fd, EPOLLIN | EPOLLONESHOT));
	assert_int_equal(claims(&a), 1);
	assert_int_equal(pthread_create(&thread, NULL, rearm, NULL), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(claims(&a), 1);
	close(shared_fd);
	close(shared_epoll);
}

/* The program may use all numbers, after any way in which the device was closed. */
static void close_all_and_open_many(void)
{
	int fd, high = 0;

	NEED(!close_range(3, ~0U, 0));
	for (int i = 0; i < 900; i++) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		NEED(fd >= 0);
		high = fd > high ? fd : high;
	}
	for (fd = 3; fd <= high; fd++)
		NEED(!close(fd));
}

static void numbers_of_the_device(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a);

	(void)state;
	assert_int_equal(in_child(close_all_and_open_many), 0);
	close(fd);
}

static void dup_over_the_device(void)
{
	for (int fd = 400; fd < 600; fd++)
		NEED(dup2(0, fd) == fd);
	for (int fd = 400; fd < 600; fd++)
		NEED(!close(fd));
}

static void dup2_over_the_device(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a);

	(void)state;
	assert_int_equal(in_child(dup_over_the_device), 0);
	close(fd);
}

/* A child that shares our memory closes everything: the device of the parent stays open. */
static void vfork_child_closes_all(void **state)
{
	int epoll = epoll_create1(0), fd, status;
	union address a;
	pid_t pid;

	(void)state;
	fd = listener(AF_INET, &a);
	pid = vfork();
	if (!pid) {
		close(fd);
		close_range(3, ~0U, 0);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_ok(put(epoll, EPOLL_CTL_ADD, fd, EPOLLIN));
	assert_int_equal(claims(&a), 1);
	close(fd);
	close(epoll);
}

static void filter_ioctl(uint32_t action)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_poll, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, action),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	NEED(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	NEED(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

/* A filter that kills for calls which the program does not make itself. */
static void serve_confined(void)
{
	int epoll = epoll_create1(0), client, conn, fd;
	struct epoll_event event;
	union address a;

	fd = listener(AF_INET, &a);
	NEED(!put(epoll, EPOLL_CTL_ADD, fd, EPOLLIN));
	filter_ioctl(SECCOMP_RET_KILL_PROCESS);
	client = socket(AF_INET, SOCK_STREAM, 0);
	NEED(!connect(client, &a.sa, sizeof(a.in)));
	NEED(epoll_wait(epoll, &event, 1, 5000) == 1);
	conn = accept(fd, NULL, NULL);
	NEED(conn >= 0 && !put(epoll, EPOLL_CTL_ADD, conn, EPOLLIN));
	NEED(write(client, "x", 1) == 1);
	NEED(epoll_wait(epoll, &event, 1, 5000) == 1);
	NEED(!put(epoll, EPOLL_CTL_DEL, fd, 0));
	NEED(epoll_wait(epoll, &event, 1, 0) >= 0);
	NEED(!close(conn) && !close(fd));
}

static void confined_by_seccomp(void **state)
{
	(void)state;
	assert_int_equal(in_child(serve_confined), 0);
}

static void connect_without_ioctl(void)
{
	union address a;
	int client;

	listener(AF_INET, &a);
	filter_ioctl(SECCOMP_RET_ERRNO | EPERM);
	client = socket(AF_INET, SOCK_STREAM, 0);
	NEED(!connect(client, &a.sa, sizeof(a.in)));
}

/* This also holds if the module would choose the source port. */
static void connect_with_a_filter(void **state)
{
	(void)state;
	assert_int_equal(in_child(connect_without_ioctl), 0);
	write_file(PARAM "enable_receive_flow_deliver", "1");
	assert_int_equal(in_child(connect_without_ioctl), 0);
	write_file(PARAM "enable_receive_flow_deliver", "0");
}

struct pair {
	int epoll, conn, peer;
};

/* Returns a connection that has been added, and of which the kernel does not know yet. */
static struct pair floating(void)
{
	union address a;
	int fd = listener(AF_INET, &a);
	struct pair p = { epoll_create1(0), 0, socket(AF_INET, SOCK_STREAM, 0) };

	NEED(!connect(p.peer, &a.sa, sizeof(a.in)));
	p.conn = accept(fd, NULL, NULL);
	NEED(p.conn >= 0 && !put(p.epoll, EPOLL_CTL_ADD, p.conn, EPOLLIN));
	return p;
}

static void wait_without_descriptors(void)
{
	struct rlimit limit = { 0, 0 };
	struct epoll_event event;
	struct pair p = floating();

	NEED(write(p.peer, "x", 1) == 1);
	NEED(!setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < 3; i++)
		NEED(epoll_wait(p.epoll, &event, 1, 20000) == 1 && event.data.fd == p.conn);
}

static void limit_lowered(void **state)
{
	(void)state;
	assert_int_equal(in_child(wait_without_descriptors), 0);
}

static sigjmp_buf away;
static volatile sig_atomic_t strikes;

static void strike(int signal)
{
	(void)signal;
	strikes++;
	siglongjmp(away, 1);
}

/* Signal handlers that leave by siglongjmp() run anywhere, also while notes change. */
static void leave_and_go_on(void)
{
	struct itimerval often = { { 0, 150 }, { 0, 150 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = strike };
	volatile struct pair p = floating(), q = floating();
	struct epoll_event event;
	volatile int rounds = 0;

	NEED(!sigaction(SIGALRM, &action, NULL));
	sigsetjmp(away, 1);
	if (!rounds)
		NEED(!setitimer(ITIMER_REAL, &often, NULL));
	/* During all this the first one is in the instance, and no thread waits. */
	while (rounds++ < 300000 && strikes < 3000) {
		put(p.epoll, EPOLL_CTL_ADD, q.conn, EPOLLIN);
		put(p.epoll, EPOLL_CTL_MOD, q.conn, rounds & 1 ? EPOLLIN : 0);
		put(p.epoll, EPOLL_CTL_DEL, q.conn, 0);
	}
	NEED(!setitimer(ITIMER_REAL, &never, NULL));
	NEED(strikes > 100);
	NEED(write(p.peer, "x", 1) == 1);
	NEED(epoll_wait(p.epoll, &event, 1, 5000) == 1 && event.data.fd == p.conn);
	put(p.epoll, EPOLL_CTL_DEL, q.conn, 0);
	NEED(!put(p.epoll, EPOLL_CTL_ADD, q.conn, EPOLLIN));
	NEED(put(p.epoll, EPOLL_CTL_ADD, q.conn, EPOLLIN) < 0 && errno == EEXIST);
}

static void handlers_that_do_not_return(void **state)
{
	(void)state;
	assert_int_equal(in_child(leave_and_go_on), 0);
}

static void absent_functions(void **state)
{
	(void)state;
	assert_null(dlsym(RTLD_DEFAULT, "io_uring_queue_init"));
	assert_null(dlsym(RTLD_DEFAULT, "io_uring_setup"));
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test(name)
	const struct CMUnitTest tests[] = {
		T(unknown_listener_is_spawned),
		T(added_before_it_listens),
		T(rearmed_by_another_thread),
		T(numbers_of_the_device),
		T(dup2_over_the_device),
		T(vfork_child_closes_all),
		T(confined_by_seccomp),
		T(connect_with_a_filter),
		T(limit_lowered),
		T(handlers_that_do_not_return),
		T(absent_functions),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
