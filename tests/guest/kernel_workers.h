/* SPDX-License-Identifier: GPL-2.0-only */
/* Workers of the kernel backend that accept in several ways, and what becomes of connections. */
#ifndef TESTS_GUEST_KERNEL_WORKERS_H
#define TESTS_GUEST_KERNEL_WORKERS_H

#include "helpers.h"

#include <netinet/in.h>

#define MOST 4

static int fd;
static union address a;
static pid_t workers[MOST];

static inline int setup(void **state)
{
	(void)state;
	memset(workers, 0, sizeof(workers));
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static inline void kill_worker(int i)
{
	if (!workers[i])
		return;
	kill(workers[i], SIGKILL);
	waitpid(workers[i], NULL, 0);
	workers[i] = 0;
}

static inline int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < MOST; i++)
		kill_worker(i);
	close(fd);
	unpin();
	return 0;
}

static inline void set_late(const char *ms)
{
	close(fd);
	setenv("FSOCKET_STEAL_AFTER_MS", ms, 1);
	fd = listener(AF_INET, &a);
	unsetenv("FSOCKET_STEAL_AFTER_MS");
	set_nonblock(fd);
}

/* Makes a system call by its instruction, as programs do that are not linked to the C library. */
static inline long call_inline(long number, long one, long two, long three, long four, long five)
{
	register long r10 asm("r10") = four, r8 asm("r8") = five;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(number), "D"(one), "S"(two), "d"(three), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return ret;
}

/* Reads an option as the kernel has it. Returns the length of the value; -1 if there is none. */
static inline int option_inline(int from, int level, int name, void *value, socklen_t len)
{
	return call_inline(SYS_getsockopt, from, level, name, (long)value, (long)&len) ? -1 : (int)len;
}

static inline int accept_inline(int from)
{
	long ret = call_inline(SYS_accept4, from, 0, 0, 0, 0);

	return ret < 0 ? -1 : ret;
}

static inline int accept_by_number(int from)
{
	return syscall(SYS_accept4, from, NULL, NULL, 0);
}

static inline int accept_by_old_number(int from)
{
	return syscall(SYS_accept, from, NULL, NULL);
}

static inline int accept_by_name(int from)
{
	return accept(from, NULL, NULL);
}

/* Forks worker i; returns whether this is it. */
static inline bool is_worker(int i)
{
	workers[i] = fork();
	assert_ok(workers[i]);
	if (workers[i])
		return false;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return true;
}

static inline bool greet_one(char letter, int (*accept_one)(int))
{
	int conn = accept_one(fd);

	if (conn < 0)
		return false;
	if (write(conn, &letter, 1) != 1)
		_exit(3);
	close(conn);
	return true;
}

static inline void greet_all(char letter, int (*accept_one)(int))
{
	while (greet_one(letter, accept_one))
		;
}

static inline void watch_for(int epoll, int other, uint32_t events)
{
	struct epoll_event event = { .events = events };

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event))
		_exit(4);
}

static inline int watch_listener(void)
{
	int epoll = epoll_create1(0);

	watch_for(epoll, fd, EPOLLIN);
	return epoll;
}

static inline void serve(char letter, int (*accept_one)(int))
{
	int epoll = watch_listener();
	struct epoll_event event;

	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) == 1)
			greet_all(letter, accept_one);
}

static inline void leave(int signal)
{
	exit(signal != SIGTERM);
}

static inline void start_worker(int i, int (*accept_one)(int))
{
	if (!is_worker(i))
		return;
	signal(SIGTERM, leave);
	serve('0' + i, accept_one);
}

static inline char ask(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

/* Waits until all these workers are pinned, and have members. */
static inline void await_workers(int first, int last)
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

static inline void start_workers(int count)
{
	for (int i = 0; i < count; i++)
		start_worker(i, accept_by_name);
	await_workers(0, count - 1);
}

/* Waits until the process has surely stopped, not within an answer. */
static inline void pause_process(pid_t pid)
{
	usleep(20000);
	stop_child(pid);
}

static inline void pause_worker(int i)
{
	pause_process(workers[i]);
}

/*
 * Returns the number of connections that wait in the listener itself, to which the library would
 * add those that wait in the members.
 */
static inline int waiting_in_listener(void)
{
	struct tcp_info info;

	memset(&info, 0, sizeof(info));
	assert_true(option_inline(fd, IPPROTO_TCP, TCP_INFO, &info, sizeof(info)) > 0);
	/* For a listener, this is the length of its queue. */
	return info.tcpi_unacked;
}

/*
 * Returns how many of two connections, one of each CPU, wait in the listener while these workers stand
 * still.
 */
static inline int shared_of_two(int first, int last)
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
	return waiting;
}

static inline void await_local(int first, int last)
{
	for (int i = 0; i < 100; i++) {
		if (!shared_of_two(first, last))
			return;
		/* Connections wake the workers that do not know of the others yet. */
		for (int k = 0; k < 10; k++)
			ask(k % 2);
		usleep(20000);
	}
	fail();
}

/* Waits until the others have seen that a worker is silent: STALE() in library/route.h. */
static inline void let_others_see(void)
{
	usleep(1500000);
}

static inline void answer_all(int count)
{
	for (int i = 0; i < 100; i++)
		assert_true(ask(i % 2));
	for (int i = 0; i < count; i++)
		assert_ok(kill(workers[i], 0));
}

/* Returns whether connections go to workers' members: no test demands that of the kernel alone. */
static inline bool grouped(void)
{
	const char *backend = getenv("FSOCKET_BACKEND");

	return backend && !strcmp(backend, "kernel");
}

/* Returns how often the process has read a file. */
static inline long reads(pid_t pid)
{
	char line[64];
	long count = -1;
	FILE *io;

	snprintf(line, sizeof(line), "/proc/%d/io", pid);
	io = fopen(line, "r");
	if (!io)
		skip();
	while (fgets(line, sizeof(line), io))
		sscanf(line, "syscr: %ld", &count);
	fclose(io);
	return count;
}

#endif
