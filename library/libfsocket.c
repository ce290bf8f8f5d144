// SPDX-License-Identifier: GPL-2.0-only
/*
 * libfsocket.so: preloaded into an unmodified server, it gives each worker that
 * waits for connections with epoll a local listener of the fastsocket module.
 *
 *	LD_PRELOAD=libfsocket.so nginx
 *
 * It follows these calls, and does for every one just what the program asked:
 *
 *	listen()		the fd is a listener from now on
 *	epoll_ctl(ADD, fd)	this worker wants its connections: spawn
 *	epoll_ctl(DEL, fd)	it does not: retire before the next epoll_wait()
 *	epoll_ctl(MOD, fd)	the one or the other, as EPOLLIN is asked for
 *	epoll_wait()		retire what is to be retired by now
 *	close(fd)		it wants no more of them: retire at once
 *	connect()		through the module, which may choose the source port
 *				(enable_receive_flow_deliver); only in programs
 *				that have listened
 *
 * Why so late: every 16 connections nginx deletes and adds its listeners, to
 * change its place among the workers that wait for the same socket
 * (ngx_reorder_accept_events()).
 *
 *	getsockopt(SO_REUSEPORT)	of a listener: what the program has set; spawning
 *				sets it too
 *	accept()		of such an fd through the module, if that keeps a
 *				pool of sockets (enable_socket_pool_size); else
 *				accept4(2), behind which the module does the rest
 *
 * A worker that dies is retired by the kernel, as that closes the device. What
 * enable_fast_epoll does is in epoll.c.
 *
 * Environment:
 *	FSOCKET_REQUIRED=1	without the module, exit with status 1 at the
 *				first listen() (else: one line on standard
 *				error, and the program runs as without us)
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../kmod/fastsocket_abi.h"
#include "epoll.h"
#include "real.h"

/*
 * Listeners are opened early, so their numbers are small; one above this limit
 * is left to the kernel's shared accept queue.
 */
#define MAX_LISTENER 65536

enum { NO_LISTENER, LISTENER, LISTENER_WITH_REUSEPORT };

/* What the program knows of its listeners: SO_REUSEPORT, which spawning sets, is its own. */
static atomic_uchar listeners[MAX_LISTENER];
/* None yet: programs that do not listen pay nothing but this comparison. */
static atomic_int highest_listener = -1;

static atomic_int device = -1;
static atomic_bool unavailable;

/* The listener that this thread has not waited for since it was in its set; or -1. */
static __thread int leaving __attribute__((tls_model("initial-exec"))) = -1;

static bool is_listener(int fd)
{
	return fd >= 0 && fd <= atomic_load_explicit(&highest_listener, memory_order_relaxed) &&
	       atomic_load_explicit(&listeners[fd], memory_order_relaxed) != NO_LISTENER;
}

/*
 * Opens the device under a number that the program does not expect to get
 * itself: the kernel hands out the lowest free one, and some programs count on
 * what their next will be.
 */
static int open_device(void)
{
	struct rlimit limit;
	int low, high;

	low = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	if (low < 0)
		return -1;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > 1024)
		limit.rlim_cur = 1024;
	high = fcntl(low, F_DUPFD_CLOEXEC, (int)limit.rlim_cur / 2);
	if (high < 0)
		return low;
	syscall(SYS_close, low);
	return high;
}

/* The mapping stays when the device is closed. Without it no feature is on. */
static void map_features(int fd)
{
	static atomic_bool mapped;
	void *page;

	if (atomic_exchange(&mapped, true))
		return;
	page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		fsocket_features = page;
}

static void report_missing(void)
{
	const char *required = getenv("FSOCKET_REQUIRED");
	bool fatal = required && !strcmp(required, "1");

	fprintf(stderr, "libfsocket: %s: %s: %s (load it with: modprobe fastsocket)\n",
		FSOCKET_DEVICE, strerror(errno),
		fatal ? "the program needs the module and ends here" :
			"running without Fastsocket");
	if (fatal)
		_exit(1);
}

static bool device_ready(void)
{
	int expected = -1, fd;

	if (atomic_load(&unavailable))
		return false;
	if (atomic_load(&device) >= 0)
		return true;
	fd = open_device();
	if (fd < 0) {
		if (!atomic_exchange(&unavailable, true))
			report_missing();
		return false;
	}
	map_features(fd);
	if (!atomic_compare_exchange_strong(&device, &expected, fd))
		syscall(SYS_close, fd);
	return true;
}

int fsocket_report_saved(uint32_t count)
{
	struct fsocket_ioctl_arg arg = { .backlog = count };

	return ioctl(atomic_load(&device), FSOCKET_IOC_EPOLL_SAVED, &arg);
}

static int call_module(unsigned long call, int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.spawn_op.cpu = -1;
	return ioctl(atomic_load(&device), call, &arg);
}

/*
 * A worker without a local listener is served by the shared one: no error of
 * the module concerns the program. The module logs the reason.
 */
static void spawn(int fd)
{
	if (!device_ready() || !call_module(FSOCKET_IOC_SPAWN_LISTEN, fd))
		return;
	/* The program has closed all fds that it does not know: open anew. */
	if (errno == EBADF && fcntl(fd, F_GETFD) >= 0) {
		atomic_store(&device, -1);
		if (device_ready())
			call_module(FSOCKET_IOC_SPAWN_LISTEN, fd);
	}
}

/* Has no effect where nothing was spawned. */
static void retire_leaving(void)
{
	int saved = errno;

	call_module(FSOCKET_IOC_RETIRE_LISTEN, leaving);
	leaving = -1;
	errno = saved;
}

static void leave(int fd)
{
	if (leaving >= 0 && leaving != fd)
		retire_leaving();
	leaving = fd;
}

static void stay(int fd)
{
	if (leaving == fd)
		leaving = -1;
	else
		spawn(fd);
}

static void note_listener(int fd)
{
	int highest = atomic_load(&highest_listener), reuseport = 0;
	socklen_t len = sizeof(reuseport);

	REAL(getsockopt);
	/* A second listen() of a listener: the option may be ours by now. */
	if (is_listener(fd))
		return;
	real(fd, SOL_SOCKET, SO_REUSEPORT, &reuseport, &len);
	atomic_store(&listeners[fd], reuseport ? LISTENER_WITH_REUSEPORT : LISTENER);
	while (highest < fd &&
	       !atomic_compare_exchange_weak(&highest_listener, &highest, fd))
		;
}

int listen(int fd, int backlog)
{
	int ret, saved = errno;

	REAL(listen);
	/* Its epoll calls are ours to follow, at once: see epoll_ctl(). */
	fsocket_epoll_escape(fd);
	ret = real(fd, backlog);
	if (ret || fd >= MAX_LISTENER)
		return ret;
	if (device_ready())
		note_listener(fd);
	errno = saved;
	return ret;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	int ret;

	REAL(getsockopt);
	ret = real(fd, level, name, value, len);
	if (!ret && level == SOL_SOCKET && name == SO_REUSEPORT && is_listener(fd)) {
		int own = atomic_load(&listeners[fd]) == LISTENER_WITH_REUSEPORT;

		memcpy(value, &own, *len);
	}
	return ret;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	int ret, own;

	REAL(setsockopt);
	ret = real(fd, level, name, value, len);
	if (!ret && level == SOL_SOCKET && name == SO_REUSEPORT && is_listener(fd)) {
		memcpy(&own, value, sizeof(own));
		atomic_store(&listeners[fd], own ? LISTENER_WITH_REUSEPORT : LISTENER);
	}
	return ret;
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	int ret, saved = errno;

	REAL(epoll_ctl);
	if (!is_listener(fd))
		return fsocket_epoll_ctl(epfd, op, fd, event);

	/* Before: poll() registers with the local listener that it finds. */
	if (op == EPOLL_CTL_ADD)
		stay(fd);
	errno = saved;
	ret = real(epfd, op, fd, event);
	saved = errno;
	/* Only if it has succeeded is it sure that event may be read. */
	if (ret) {
		if (op == EPOLL_CTL_ADD && saved != EEXIST)
			leave(fd);
	} else if (op == EPOLL_CTL_DEL || !(event->events & EPOLLIN)) {
		leave(fd);
	} else if (op == EPOLL_CTL_MOD) {
		stay(fd);
	}
	errno = saved;
	return ret;
}

int epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	if (leaving >= 0)
		retire_leaving();
	return fsocket_epoll_wait(epfd, events, maxevents, timeout);
}

int epoll_pwait(int epfd, struct epoll_event *events, int maxevents, int timeout,
		const sigset_t *mask)
{
	REAL(epoll_pwait);
	if (leaving >= 0)
		retire_leaving();
	if (!mask)
		return fsocket_epoll_wait(epfd, events, maxevents, timeout);
	fsocket_epoll_settle(epfd);
	return real(epfd, events, maxevents, timeout, mask);
}

int epoll_pwait2(int epfd, struct epoll_event *events, int maxevents,
		 const struct timespec *timeout, const sigset_t *mask)
{
	REAL(epoll_pwait2);
	if (leaving >= 0)
		retire_leaving();
	fsocket_epoll_settle(epfd);
	return real(epfd, events, maxevents, timeout, mask);
}

int socket(int family, int type, int protocol)
{
	int fd;

	REAL(socket);
	fd = real(family, type, protocol);
	if (family == AF_INET || family == AF_INET6)
		fsocket_epoll_new_socket(fd);
	return fd;
}

/* -1 and ENOTTY or EBADF also if the module could not be asked. */
static int accept_by_module(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };
	int ret, type;

	arg.op.accept_op.sockaddr = addr;
	arg.op.accept_op.sockaddr_len = (int *)len;
	arg.op.accept_op.flags = flags;
	/* accept() is where a thread can be cancelled; ioctl() is not. */
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	ret = ioctl(atomic_load(&device), FSOCKET_IOC_ACCEPT, &arg);
	pthread_setcanceltype(type, NULL);
	return ret;
}

/* Whether the module has answered: *conn is what accept4() returns. */
static bool accept_from_pool(int fd, struct sockaddr *addr, socklen_t *len, int flags,
			     int *conn)
{
	int saved = errno;

	if (!fsocket_features->socket_pool || !is_listener(fd))
		return false;
	*conn = accept_by_module(fd, addr, len, flags);
	if (*conn < 0 && errno != ENOTTY && errno != EBADF)
		return true;
	errno = saved;
	return *conn >= 0;
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn;

	REAL(accept4);
	if (!accept_from_pool(fd, addr, len, flags, &conn))
		conn = real(fd, addr, len, flags);
	fsocket_epoll_new_socket(conn);
	return conn;
}

int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	int conn;

	REAL(accept);
	if (!accept_from_pool(fd, addr, len, 0, &conn))
		conn = real(fd, addr, len);
	fsocket_epoll_new_socket(conn);
	return conn;
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	int saved = errno;

	REAL(connect);
	if (atomic_load_explicit(&highest_listener, memory_order_relaxed) >= 0) {
		struct fsocket_ioctl_arg arg = { .fd = fd };

		arg.op.connect_op.sockaddr = addr;
		arg.op.connect_op.sockaddr_len = len;
		if (!ioctl(atomic_load(&device), FSOCKET_IOC_CONNECT, &arg)) {
			errno = saved;
			return 0;
		}
		/* The device is closed, or its number is another file's by now. */
		if (errno != EBADF && errno != ENOTTY)
			return -1;
		errno = saved;
	}
	return real(fd, addr, len);
}

int close(int fd)
{
	int saved = errno;

	REAL(close);
	if (fd >= 0 && fd == atomic_load_explicit(&device, memory_order_relaxed)) {
		/* Not the program's: it has no such fd. */
		errno = EBADF;
		return -1;
	}
	fsocket_epoll_close(fd);
	if (is_listener(fd)) {
		atomic_store(&listeners[fd], NO_LISTENER);
		if (leaving == fd)
			leaving = -1;
		/* Retires what all threads have spawned on it. */
		if (!call_module(FSOCKET_IOC_CLOSE, fd))
			return 0;
		errno = saved;
	}
	return real(fd);
}
