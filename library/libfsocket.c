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
 * Accepting needs no help: the module does that behind accept4(2). A worker that
 * dies is retired by the kernel, as that closes the device.
 *
 * Environment:
 *	FSOCKET_REQUIRED=1	without the module, exit with status 1 at the
 *				first listen() (else: one line on standard
 *				error, and the program runs as without us)
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../kmod/fastsocket_abi.h"

/*
 * Listeners are opened early, so their numbers are small; one above this limit
 * is left to the kernel's shared accept queue.
 */
#define MAX_LISTENER 65536

static atomic_bool listeners[MAX_LISTENER];
/* None yet: programs that do not listen pay nothing but this comparison. */
static atomic_int highest_listener = -1;

static atomic_int device = -1;
static atomic_bool unavailable;

/* The listener that this thread has not waited for since it was in its set; or -1. */
static __thread int leaving __attribute__((tls_model("initial-exec"))) = -1;

static bool is_listener(int fd)
{
	return fd >= 0 && fd <= atomic_load_explicit(&highest_listener, memory_order_relaxed) &&
	       atomic_load_explicit(&listeners[fd], memory_order_relaxed);
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
	if (!atomic_compare_exchange_strong(&device, &expected, fd))
		syscall(SYS_close, fd);
	return true;
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

#define REAL(name)							\
	static __typeof__(&name) real;					\
									\
	if (!real)							\
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int listen(int fd, int backlog)
{
	int ret, saved = errno;

	REAL(listen);
	ret = real(fd, backlog);
	if (ret || fd >= MAX_LISTENER)
		return ret;
	if (device_ready()) {
		int highest = atomic_load(&highest_listener);

		atomic_store(&listeners[fd], true);
		while (highest < fd &&
		       !atomic_compare_exchange_weak(&highest_listener, &highest, fd))
			;
	}
	errno = saved;
	return ret;
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	int ret, saved = errno;

	REAL(epoll_ctl);
	if (!is_listener(fd))
		return real(epfd, op, fd, event);

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
	REAL(epoll_wait);
	if (leaving >= 0)
		retire_leaving();
	return real(epfd, events, maxevents, timeout);
}

int epoll_pwait(int epfd, struct epoll_event *events, int maxevents, int timeout,
		const sigset_t *mask)
{
	REAL(epoll_pwait);
	if (leaving >= 0)
		retire_leaving();
	return real(epfd, events, maxevents, timeout, mask);
}

int epoll_pwait2(int epfd, struct epoll_event *events, int maxevents,
		 const struct timespec *timeout, const sigset_t *mask)
{
	REAL(epoll_pwait2);
	if (leaving >= 0)
		retire_leaving();
	return real(epfd, events, maxevents, timeout, mask);
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
	if (is_listener(fd)) {
		atomic_store(&listeners[fd], false);
		if (leaving == fd)
			leaving = -1;
		/* Retires what all threads have spawned on it. */
		if (!call_module(FSOCKET_IOC_CLOSE, fd))
			return 0;
		errno = saved;
	}
	return real(fd);
}
