/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sockets and epoll instances twice: by the C library, whose functions libfsocket.so
 * replaces, and by system calls made here.
 */
#ifndef TESTS_GUEST_TWINS_H
#define TESTS_GUEST_TWINS_H

#include <sys/resource.h>

#include "helpers.h"

static inline long raw(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	if (ret < 0 && ret > -4096) {
		errno = -ret;
		return -1;
	}
	return ret;
}

#define RAW1(n, a) ((int)raw(n, (long)(a), 0, 0, 0, 0, 0))
#define RAW2(n, a, b) ((int)raw(n, (long)(a), (long)(b), 0, 0, 0, 0))
#define RAW4(n, a, b, c, d) ((int)raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0))

static inline int raw_create(int flags) { return RAW1(SYS_epoll_create1, flags); }
static inline int raw_close(int fd) { return RAW1(SYS_close, fd); }
static inline int raw_copy(int fd, int cmd, int from)
{
	return RAW4(SYS_fcntl, fd, cmd, from, 0);
}

static inline int copy(int fd, int cmd, int from)
{
	return fcntl(fd, cmd, from);
}

static inline int raw_shutdown(int fd, int how) { return RAW2(SYS_shutdown, fd, how); }

static inline int raw_socket(int family, int type, int protocol)
{
	return RAW4(SYS_socket, family, type, protocol, 0);
}

static inline int raw_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	return RAW4(SYS_accept4, fd, addr, len, flags);
}

static inline int raw_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	return RAW4(SYS_epoll_ctl, epfd, op, fd, event);
}

static inline int raw_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	return RAW4(SYS_epoll_wait, epfd, events, max, timeout);
}

static const struct side {
	int (*create)(int flags);
	int (*ctl)(int epfd, int op, int fd, struct epoll_event *event);
	int (*wait)(int epfd, struct epoll_event *events, int max, int timeout);
	int (*accept)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
	int (*socket)(int family, int type, int protocol);
	int (*close)(int fd);
	int (*copy)(int fd, int cmd, int from);
	int (*shutdown)(int fd, int how);
} sides[2] = {
	{ epoll_create1, epoll_ctl, epoll_wait, accept4, socket, close, copy, shutdown },
	{ raw_create, raw_ctl, raw_wait, raw_accept, raw_socket, raw_close, raw_copy, raw_shutdown },
};

static union address a;
static int listening;
static int instances[2];

static inline void feature(bool on)
{
	const char *fake = getenv("FAKE_FEATURES");
	uint32_t word = on;
	int file;

	if (!fake) {
		write_file(PARAM "enable_fast_epoll", on ? "1" : "0");
		return;
	}
	file = RAW4(SYS_open, fake, O_WRONLY, 0, 0);
	assert_ok(file);
	assert_int_equal(write(file, &word, sizeof(word)), sizeof(word));
	raw_close(file);
}

/* The number of connections in TIME_WAIT that the kernel keeps. */
static inline void time_wait(int most)
{
	char text[16];

	/* Not on a developer's machine, which has a stand-in for the module. */
	if (getenv("FAKE_FEATURES"))
		return;
	snprintf(text, sizeof(text), "%d", most);
	write_file("/proc/sys/net/ipv4/tcp_max_tw_buckets", text);
}

static inline int setup(void **state)
{
	(void)state;
	/*
	 * If one connection is too many, the kernel resets its other end, and not that
	 * of its twin.
	 */
	time_wait(500000);
	/* The library follows its twin only from the first listen() on. */
	listening = listener(AF_INET, &a);
	feature(true);
	for (int i = 0; i < 2; i++)
		instances[i] = sides[i].create(EPOLL_CLOEXEC);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	feature(true);
	for (int i = 0; i < 2; i++)
		sides[i].close(instances[i]);
	close(listening);
	/* The value that the kernel chooses for 3 GiB. */
	time_wait(16384);
	return 0;
}

/* A connection and its other end, which the library never sees. */
struct pair {
	int fd, peer;
};

static inline struct pair connection(int side)
{
	struct pair p;

	p.peer = raw_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_ok(p.peer);
	assert_ok(RAW4(SYS_connect, p.peer, &a.sa, sizeof(a.in), 0));
	p.fd = sides[side].accept(listening, NULL, NULL, SOCK_NONBLOCK);
	assert_ok(p.fd);
	return p;
}

/* Returns whether the kernel has fd in the instance. */
static inline bool registered(int epfd, int fd)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;
	int tfd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epfd);
	file = fopen(path, "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		found |= sscanf(line, "tfd: %d", &tfd) == 1 && tfd == fd;
	fclose(file);
	return found;
}

static inline int ctl(int side, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	return sides[side].ctl(instances[side], op, fd, &event);
}

#endif
