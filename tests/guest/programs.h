/* SPDX-License-Identifier: GPL-2.0-only */
/* Parts of tests that may hang, or need a process which has not listened, run as programs. */
#ifndef TESTS_GUEST_PROGRAMS_H
#define TESTS_GUEST_PROGRAMS_H

#include "helpers.h"

/*
 * Runs the function as if it were a program: its threads, and what hangs, end with its process.
 * That has not listened yet, as this one never does. It ends with a status if something is wrong.
 */
static inline void assert_runs(void (*program)(void))
{
	pid_t pid = fork();
	int status;

	assert_ok(pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(40);
		program();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static inline void start_thread(pthread_t *thread, void *(*function)(void *), void *arg)
{
	if (pthread_create(thread, NULL, function, arg))
		_exit(2);
}

/* Starts a thread that ends with the process, and lets it begin. */
static inline void start(void *(*function)(void *))
{
	pthread_t thread;

	start_thread(&thread, function, NULL);
	usleep(2000);
}

#define PATIENCE 10

/* A child that hangs may have blocked all signals, so it may outlive its alarm. */
static inline int status_of(pid_t pid)
{
	int status;

	for (int i = 0; i < PATIENCE * 2000; i++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		usleep(500);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return -1;
}

/* Makes children one after another, each of which has to end by itself. */
static inline void make_children(int count, pid_t (*make)(void), void (*child)(void))
{
	for (int i = 0; i < count; i++) {
		pid_t pid = make();

		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			alarm(PATIENCE);
			child();
			_exit(0);
		}
		if (status_of(pid))
			_exit(3);
	}
}

static inline void bind_somewhere(int unused)
{
	struct sockaddr_in here = {
		.sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) },
	};

	if (bind(unused, (void *)&here, sizeof(here)))
		_exit(4);
}

static inline int unused_socket(void)
{
	int unused = socket(AF_INET, SOCK_STREAM, 0);

	bind_somewhere(unused);
	return unused;
}

static inline void listen_once(void)
{
	int fd = unused_socket();

	if (listen(fd, 16))
		_exit(5);
	close(fd);
}

/* An epoll instance in which this thread waits for the listener. */
static inline int watching(int listener)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0);

	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
		_exit(6);
	return epoll;
}

#endif
