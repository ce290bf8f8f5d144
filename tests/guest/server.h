/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the kernel backend share that compare a program with and without the library: its
 * listener, and its workers.
 */
#ifndef TESTS_GUEST_SERVER_H
#define TESTS_GUEST_SERVER_H

#include "helpers.h"

#include <stdatomic.h>

static int fd;
static union address a;

static inline int setup(void **state)
{
	(void)state;
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	close(fd);
	unpin();
	return 0;
}

static inline int reuseport(int socket)
{
	socklen_t len = sizeof(int);
	int value = -1;

	assert_ok(getsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	return value;
}

static inline void set_reuseport(int socket)
{
	const int on = 1;

	assert_ok(setsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)));
}

/* Returns an instance of a worker. */
static inline int instance(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	int epoll = epoll_create1(0);

	assert_ok(epoll);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	return epoll;
}

/* How far the processes of a test are, which share this. */
static atomic_int *told;

static inline void tell(int stage)
{
	*told = stage;
}

static inline void await_stage(int stage)
{
	while (*told != stage)
		usleep(1000);
}

/* Waits for the listener, and answers each connection with the letter. */
static inline void work(int epoll, char letter, int timeout)
{
	struct epoll_event event;
	int conn;

	if (epoll_wait(epoll, &event, 1, timeout) <= 0)
		return;
	while ((conn = accept(fd, NULL, NULL)) >= 0) {
		assert_int_equal(write(conn, &letter, 1), 1);
		close(conn);
	}
}

/*
 * Starts a server of two workers, one of which is this process, and which have members of a group
 * if there is one. Returns the other worker, which begins its task when told is 1, and then makes it
 * 2.
 */
static inline pid_t start_workers(int *epoll, void (*task)(void))
{
	pid_t other;

	told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(told, MAP_FAILED);
	other = fork();
	assert_ok(other);
	*epoll = instance();
	if (!other) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!*told)
			work(*epoll, 'o', 1);
		task();
		tell(2);
		for (;;)
			work(*epoll, 'o', 1);
	}
	for (int i = 0; i < 500; i++) {
		int client = connect_on(i % 2, &a);

		work(*epoll, 'm', 1);
		close(client);
	}
	return other;
}

/* Works in an instance until each of the clients has been answered. */
static inline void await_answers(int epoll, const int clients[8])
{
	int answered = 0;

	for (int tries = 0; answered < 8 && tries < 20000; tries++) {
		work(epoll, 'm', 1);
		while (answered < 8 && readable(clients[answered], 0) == 1)
			assert_true(greeting(clients[answered++]));
	}
	assert_int_equal(answered, 8);
}

/* Returns whether a connection that is handled on the CPU is refused. */
static inline bool refused(int cpu)
{
	int conn = socket(AF_INET, SOCK_STREAM, 0), ret;

	assert_ok(conn);
	pin(cpu);
	ret = connect(conn, &a.sa, address_len(&a));
	if (ret)
		assert_int_equal(errno, ECONNREFUSED);
	close(conn);
	return ret;
}

static inline void stop_workers(pid_t other, int epoll)
{
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	close(epoll);
	unpin();
}

#endif
