/* SPDX-License-Identifier: GPL-2.0-only */
/* Functions that the guest's test programs share. */
#ifndef TESTS_GUEST_HELPERS_H
#define TESTS_GUEST_HELPERS_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../kmod/fastsocket_abi.h"

#define PARAM "/sys/module/fastsocket/parameters/"
#define assert_ok(call) assert_return_code(call, errno)
#define assert_errno(call, want)					\
do {									\
	errno = 0;							\
	assert_int_equal(call, -1);					\
	assert_int_equal(errno, want);					\
} while (0)

/* Waits 30 s at most: on a busy machine, work items, timers and other tasks run late. */
#define await(condition)						\
do {									\
	int waited_;							\
									\
	for (waited_ = 0; !(condition); waited_++) {			\
		if (waited_ == 3000)					\
			fail_msg("not within 30 s: %s", #condition);	\
		usleep(10000);						\
	}								\
} while (0)

static inline void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	assert_ok(fd);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

/* Does what insmod PATH OPTIONS does. */
static inline int load_module(const char *path, const char *options)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), ret, error;

	assert_ok(file);
	ret = syscall(SYS_finit_module, file, options, 0);
	error = errno;
	close(file);
	errno = error;
	return ret;
}

static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	assert_ok(sched_setaffinity(0, sizeof(set), &set));
}

static inline void unpin(void)
{
	cpu_set_t set;

	memset(&set, 0xff, sizeof(set));
	assert_ok(sched_setaffinity(0, sizeof(set), &set));
}

static inline long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Returns the one CPU on which a process may run; -1 if there are several, or it has ended. */
static inline int cpu_of(pid_t pid)
{
	cpu_set_t set;
	int cpu;

	if (sched_getaffinity(pid, sizeof(set), &set) || CPU_COUNT(&set) != 1)
		return -1;
	for (cpu = 0; !CPU_ISSET(cpu, &set); cpu++)
		;
	return cpu;
}

static inline int pinned_cpu(void)
{
	return cpu_of(0);
}

/* Returns the sum of one column of /proc/net/fastsocket, or its value for one CPU. */
static inline unsigned long long counter(const char *name, int cpu)
{
	FILE *file = fopen("/proc/net/fastsocket", "r");
	unsigned long long sum = 0;
	char line[2048], *word;
	int column = -1, i, row;

	assert_non_null(file);
	assert_non_null(fgets(line, sizeof(line), file));
	for (i = 0, word = strtok(line, " \n"); word; word = strtok(NULL, " \n"), i++)
		if (!strcmp(word, name))
			column = i;
	assert_true(column > 0);
	while (fgets(line, sizeof(line), file)) {
		row = atoi(line);
		for (i = 0, word = strtok(line, " \n"); i < column; i++)
			word = strtok(NULL, " \n");
		if (cpu < 0 || row == cpu)
			sum += strtoull(word, NULL, 10);
	}
	fclose(file);
	return sum;
}

static inline unsigned long long netstat(const char *name)
{
	FILE *file = fopen("/proc/net/netstat", "r");
	char names[8192], values[8192], *n, *v, *sn, *sv;
	unsigned long long value = ~0ULL;

	assert_non_null(file);
	while (fgets(names, sizeof(names), file) && fgets(values, sizeof(values), file)) {
		n = strtok_r(names, " \n", &sn);
		v = strtok_r(values, " \n", &sv);
		for (; n && v; n = strtok_r(NULL, " \n", &sn), v = strtok_r(NULL, " \n", &sv))
			if (!strcmp(n, name))
				value = strtoull(v, NULL, 10);
	}
	fclose(file);
	assert_true(value != ~0ULL);
	return value;
}

union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static inline socklen_t address_len(const union address *a)
{
	return a->sa.sa_family == AF_INET6 ? sizeof(a->in6) : sizeof(a->in);
}

static inline int bound_socket(int family, union address *a)
{
	socklen_t len = sizeof(*a);
	int fd = socket(family, SOCK_STREAM, 0);

	assert_ok(fd);
	memset(a, 0, sizeof(*a));
	a->sa.sa_family = family;
	if (family == AF_INET)
		a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		a->in6.sin6_addr = in6addr_loopback;
	assert_ok(bind(fd, &a->sa, address_len(a)));
	assert_ok(getsockname(fd, &a->sa, &len));
	return fd;
}

static inline int listener(int family, union address *a)
{
	int fd = bound_socket(family, a);

	assert_ok(listen(fd, 512));
	return fd;
}

static inline int readable(int fd, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, ms);
}

/*
 * Returns when the CPU to which the caller is pinned has handled all packets that it has
 * sent on loopback: they wait in one queue, and the kernel may leave it to ksoftirqd.
 */
static inline void handle_packets(void)
{
	struct sockaddr_in here = {
		.sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) },
	};
	socklen_t len = sizeof(here);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char byte = 'x';

	assert_ok(fd);
	assert_ok(bind(fd, (void *)&here, len));
	assert_ok(getsockname(fd, (void *)&here, &len));
	assert_int_equal(sendto(fd, &byte, 1, 0, (void *)&here, len), 1);
	assert_int_equal(readable(fd, 30000), 1);
	close(fd);
}

/*
 * Makes a connection whose SYN that CPU handles; the caller's affinity stays as it was. The
 * listener has the connection when this returns.
 */
static inline int connect_on(int cpu, const union address *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM, 0);
	cpu_set_t old;

	assert_ok(fd);
	assert_ok(sched_getaffinity(0, sizeof(old), &old));
	pin(cpu);
	assert_ok(connect(fd, &a->sa, address_len(a)));
	handle_packets();
	assert_ok(sched_setaffinity(0, sizeof(old), &old));
	return fd;
}

static inline void set_nonblock(int fd)
{
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
}

/*
 * Lets workers take their time before others take their connections, for tests of who
 * accepts: on a busy machine, a worker that is woken runs late.
 */
static inline void patience(bool on)
{
	write_file(PARAM "steal_after_ms", on ? "10000" : "8");
}

/* Accepts and sends a byte that tells the client its server. */
static inline void accept_and_greet(int fd, char byte)
{
	int conn = accept(fd, NULL, NULL);

	assert_ok(conn);
	assert_int_equal(write(conn, &byte, 1), 1);
	close(conn);
}

static inline char greeting(int conn)
{
	struct timeval limit = { .tv_sec = 20 };
	char byte = 0;

	setsockopt(conn, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return read(conn, &byte, 1) == 1 ? byte : 0;
}

/* Stops a child, and returns when it has stopped. */
static inline void stop_child(pid_t pid)
{
	int status;

	assert_ok(kill(pid, SIGSTOP));
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	assert_true(WIFSTOPPED(status));
}

/* Returns the number of workers that have a claim on the listener. */
static inline int claims(const union address *a)
{
	FILE *file = fopen("/proc/net/fastsocket_listeners", "r");
	int count = 0, port, worker;
	char line[256];

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*u %d %*d %*s %*d %*d %d", &port, &worker) == 2 &&
		    port == ntohs(a->in.sin_port) && worker > 0)
			count++;
	}
	fclose(file);
	return count;
}

#endif
