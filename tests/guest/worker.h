/* SPDX-License-Identifier: GPL-2.0-only */
/* A worker process that accepts, and what each test of the module does first and last. */
#ifndef TESTS_GUEST_WORKER_H
#define TESTS_GUEST_WORKER_H

#include "device.h"

/* Forks, and returns in the parent when the child has written to @ready; in the child 0. */
static inline pid_t fork_until_ready(int *ready)
{
	int ends[2];
	pid_t pid;
	char byte;

	assert_ok(pipe(ends));
	pid = fork();
	assert_ok(pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		*ready = ends[1];
		return 0;
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &byte, 1), 1);
	close(ends[0]);
	return pid;
}

/*
 * Starts a worker process that spawns on cpu, reports so, then accepts for ever and
 * greets with its letter; if lazy, it accepts nothing.
 */
static inline pid_t worker(int fd, int cpu, char letter, bool lazy)
{
	int ready;
	pid_t pid = fork_until_ready(&ready);

	if (pid)
		return pid;
	if (spawn(fd, cpu) || write(ready, "r", 1) != 1)
		_exit(1);
	while (lazy)
		pause();
	for (;;) {
		int conn = accept(fd, NULL, NULL);

		/* Another process may have made the listener non-blocking. */
		if (conn < 0 && errno == EAGAIN && readable(fd, -1) == 1)
			continue;
		if (conn < 0 || write(conn, &letter, 1) != 1)
			_exit(2);
		close(conn);
	}
}

/*
 * The function of a worker that waits with epoll: it spawns on @cpu, reports so, and
 * greets for ever.
 */
static inline void serve_by_epoll(int fd, int cpu, char letter, int ready)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(0), conn;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (spawn(fd, cpu) || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) || write(ready, "r", 1) != 1)
		_exit(1);
	for (;;) {
		if (epoll_wait(ep, &ev, 1, -1) != 1)
			continue;
		conn = accept(fd, NULL, NULL);
		if (conn >= 0 && write(conn, &letter, 1) != 1)
			_exit(2);
		close(conn);
	}
}

/* Returns the CPU whose worker serves @cpu: that itself, or another; -1 if none does. */
static inline int host_of(const union address *a, int cpu)
{
	FILE *file = fopen("/proc/net/fastsocket_listeners", "r");
	int found = -1, port, place, attached, host;
	char line[256];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*u %d %*d %*s %d %d %*d %*u %*u %d", &port, &place,
			   &attached, &host) == 4 &&
		    port == ntohs(a->in.sin_port) && place == cpu && attached)
			found = host < 0 ? cpu : host;
	}
	fclose(file);
	return found;
}

static inline void kill_worker(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static inline int setup(void **state)
{
	(void)state;
	unpin();
	write_file(PARAM "enable_listen_spawn", "2");
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static inline int teardown(void **state)
{
	(void)state;
	close(dev);
	return 0;
}

#endif
