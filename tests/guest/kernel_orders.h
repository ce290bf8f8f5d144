/* SPDX-License-Identifier: GPL-2.0-only */
/* Workers of the kernel backend that greet with a letter, and leave or come back by order. */
#ifndef TESTS_GUEST_KERNEL_ORDERS_H
#define TESTS_GUEST_KERNEL_ORDERS_H

#include "helpers.h"

#include <netinet/in.h>

#define WORKERS 2

static int fd;
static union address a;

struct worker {
	pid_t pid;
	int orders;
};

static struct worker workers[8];

static inline int setup(void **state)
{
	(void)state;
	memset(workers, 0, sizeof(workers));
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static inline void stop_worker(struct worker *w)
{
	if (!w->pid)
		return;
	kill(w->pid, SIGKILL);
	kill(w->pid, SIGCONT);
	waitpid(w->pid, NULL, 0);
	close(w->orders);
	w->pid = 0;
}

static inline int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(workers) / sizeof(*workers); i++)
		stop_worker(&workers[i]);
	close(fd);
	unpin();
	return 0;
}

static inline int watch(int epoll, int op, int what, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = what };

	return epoll_ctl(epoll, op, what, &event);
}

static inline void greet_all(char letter)
{
	int conn;

	while ((conn = accept(fd, NULL, NULL)) >= 0) {
		if (write(conn, &letter, 1) != 1)
			_exit(3);
		close(conn);
	}
}

/*
 * Greets with its letter. Orders: 'd' stops waiting for the listener, 'a' waits again; 'n' stops
 * waiting for good, and only tries to accept from time to time.
 */
static inline void worker_main(char letter, int orders)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;
	char order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	watch(epoll, EPOLL_CTL_ADD, orders, EPOLLIN);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.fd == fd) {
			greet_all(letter);
			continue;
		}
		if (read(orders, &order, 1) != 1)
			_exit(0);
		if (order == 'x')
			exit(0);
		watch(epoll, order == 'a' ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, EPOLLIN);
		while (order == 'n') {
			greet_all(letter);
			usleep(10000);
		}
	}
}

static inline void start_worker(int i)
{
	int orders[2];

	assert_ok(pipe2(orders, O_CLOEXEC));
	workers[i].pid = fork();
	assert_ok(workers[i].pid);
	if (!workers[i].pid) {
		close(orders[1]);
		worker_main('0' + i, orders[0]);
	}
	close(orders[0]);
	workers[i].orders = orders[1];
}

/* Replaces the listener by a socket that is bound and does not listen yet. */
static inline void bind_anew(void)
{
	close(fd);
	fd = bound_socket(AF_INET, &a);
	set_nonblock(fd);
}

static inline char ask(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

/* Waits until each worker answers the connections of its own CPU, 20 times in a row. */
static inline void await_locality(int count)
{
	int right = 0, cpu;

	for (int i = 0; i < 4000 && right < 20; i++) {
		cpu = cpu_of(workers[i % count].pid);
		if (cpu < 0) {
			/* The worker learns of the others when a connection wakes it. */
			ask(i % 2);
			usleep(1000);
			right = 0;
		} else {
			right = ask(cpu) == '0' + i % count ? right + 1 : 0;
		}
	}
	assert_int_equal(right, 20);
}

static inline void start_workers(int count)
{
	for (int i = 0; i < count; i++)
		start_worker(i);
	await_locality(count);
}

#endif
