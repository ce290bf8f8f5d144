// SPDX-License-Identifier: GPL-2.0-only
/*
 * libfsocket.so: preloaded into an unmodified server, it gives each worker that waits
 * for connections with epoll a local listener of the fastsocket module.
 *
 *	LD_PRELOAD=libfsocket.so nginx
 *
 * It follows these calls, and does for each exactly what the program asked:
 *
 *	listen()		the fd is a listener from now on
 *	epoll_ctl(ADD, fd)	this worker waits for its connections: spawn
 *	epoll_ctl(DEL, fd)	it does not: retire before the next epoll_wait()
 *	epoll_ctl(MOD, fd)	the one or the other, depending on EPOLLIN
 *	epoll_wait()		retire what is to be retired by now
 *	close(fd)		the worker waits no longer: retire at once
 *	connect()		with enable_receive_flow_deliver through the module, which
 *				may choose the source port; only in programs that
 *				have listened
 *
 * DEL retires so late because nginx deletes and adds its listeners every 16
 * connections, to change its place among the workers that wait for the same socket
 * (ngx_reorder_accept_events()).
 *
 *	getsockopt(SO_REUSEPORT)	of a listener: the value that the program has set;
 *				spawning sets the option, too
 *	accept()		of such an fd through the module, if that keeps a
 *				pool of sockets (enable_socket_pool_size); else
 *				accept4(2), which calls accept() of the module
 *
 * The kernel closes the device of a worker that dies, which retires the worker.
 *
 *	process.c	which process it is
 *	device.c	/dev/fastsocket
 *	memory.c	what the program's pointers lead to
 *	pwait2.c	epoll_pwait2()
 *	listener.c	which descriptors listen, and which threads wait for them
 *	epoll.c		enable_fast_epoll, with its notes in shadow.c, and its waits in wait.c
 *	escape.c	calls that end the following of epoll.c
 *
 * Environment:
 *	FSOCKET_REQUIRED=1	without the module, exit with status 1 at the
 *				first listener (else: one line on standard
 *				error, and the program runs as without the library)
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"
#include "epoll.h"
#include "fds.h"
#include "kernel.h"
#include "listener.h"
#include "process.h"
#include "real.h"
#include "shadow.h"

int listen(int fd, int backlog)
{
	int ret;

	REAL(listen);
	/* From now on the listener's epoll calls go to the kernel at once: see epoll_ctl(). */
	fsocket_epoll_escape(fd);
	ret = real(fd, backlog);
	if (!ret) {
		/* The group may be another process's, which has made it with a backlog of its own. */
		fsocket_listener_note(fd);
		fsocket_group_listen(fd, backlog);
	}
	return ret;
}

/*
 * The program asks whether a descriptor from elsewhere has SO_REUSEPORT, as nginx does
 * after a binary upgrade, and the library in the program before may have set it. The
 * parent may not use the listener again before its workers have given up their
 * privileges, and then it is too late to take a group over.
 */
static void ask_about_inherited(int fd)
{
	if (fsocket_fd(fd) == FD_UNKNOWN && fsocket_kernel_chosen())
		fsocket_listener_ask(fd);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	atomic_bool *reuseport;
	int ret, own;

	REAL(getsockopt);
	ret = real(fd, level, name, value, len);
	if (!ret && level == SOL_SOCKET && name == SO_REUSEPORT) {
		ask_about_inherited(fd);
		reuseport = fsocket_listener_reuseport(fd);
		own = reuseport && *reuseport;
		if (reuseport || fsocket_group_child(fd))
			memcpy(value, &own, *len);
	} else if (!ret && level == IPPROTO_TCP && name == TCP_INFO) {
		fsocket_group_info(fd, value, *len);
	}
	return ret;
}

/*
 * The kernel would find first that the value is a bad pointer, or is no program. It says so of a
 * socket that has just been made, too, which is in no group either.
 */
static RARELY int refuse_option(int level, int name, const void *value, socklen_t len)
{
	int other = RAW3(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	long ret;

	if (other < 0)
		return -1;
	ret = RAW5(SYS_setsockopt, other, level, name, value, len);
	if (ret < 0 && ret != -EINVAL)
		errno = -ret;
	RAW2(SYS_close, other, 0);
	return -1;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	atomic_bool *reuseport;
	int ret, own;

	REAL(setsockopt);
	if (!fsocket_group_option_allowed(fd, level, name))
		return refuse_option(level, name, value, len);
	ret = real(fd, level, name, value, len);
	if (!ret && level == SOL_SOCKET && name == SO_REUSEPORT) {
		reuseport = fsocket_listener_reuseport(fd);
		memcpy(&own, value, sizeof(own));
		if (own)
			atomic_store(&fsocket_reuseport_wanted, true);
		if (!reuseport && fsocket_group_child(fd))
			reuseport = fsocket_listener_remember(fd);
		if (reuseport)
			*reuseport = own;
	}
	if (!ret)
		fsocket_group_option_set(fd, level, name, value, len);
	return ret;
}

/*
 * A program that looks for its listener among all numbers that it may have inherited, as uWSGI
 * does at a reload, must not take a member for it, which has the same address.
 */
int getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	REAL(getsockname);
	if (RARE(fsocket_fd(fd) == FD_MEMBER) && fsocket_group_member(fd)) {
		errno = EBADF;
		return -1;
	}
	return real(fd, addr, len);
}

/*
 * poll() registers the epoll instance only with the local listener that exists when fd is
 * added. If the local listener was made later, fd is added once more. A thread that waits
 * meanwhile misses no event: the second ADD reports what is ready, as MOD would.
 */
static int register_anew(int epfd, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	if (real(epfd, EPOLL_CTL_DEL, fd, NULL))
		return 0;
	return real(epfd, EPOLL_CTL_ADD, fd, event);
}

static int control_listener(int epfd, int op, int fd, struct epoll_event *event)
{
	int ret, saved = errno;

	REAL(epoll_ctl);
	if (op == EPOLL_CTL_ADD)
		fsocket_listener_added(fd);
	ret = real(epfd, op, fd, event);
	/* event can surely be read only if the call has succeeded. */
	if (ret) {
		saved = errno;
		if (op == EPOLL_CTL_ADD && saved != EEXIST)
			fsocket_listener_left(fd);
	} else if (op == EPOLL_CTL_DEL || !(event->events & EPOLLIN)) {
		fsocket_listener_left(fd);
		fsocket_group_ctl(epfd, op, fd, event);
	} else if (op == EPOLL_CTL_MOD && fsocket_listener_resumed(fd)) {
		ret = fsocket_kernel_chosen() ? 0 : register_anew(epfd, fd, event);
		saved = ret ? errno : saved;
		fsocket_group_ctl(epfd, op, fd, event);
	} else {
		fsocket_group_ctl(epfd, op, fd, event);
	}
	errno = saved;
	return ret;
}

static RARELY int control_specially(int epfd, int op, int fd, struct epoll_event *event)
{
	unsigned char kind = fsocket_process_apart ? FD_PLAIN : fsocket_fd(fd);

	if (kind == FD_UNKNOWN && op != EPOLL_CTL_DEL)
		kind = fsocket_listener_ask(fd);
	if (kind & FD_LISTENER)
		return control_listener(epfd, op, fd, event);
	return fsocket_epoll_ctl(epfd, op, fd, event);
}

REAL_LATER(epoll_ctl, (int epfd, int op, int fd, struct epoll_event *event),
	   (epfd, op, fd, event))

/* nginx, whose events are edge-triggered, and all sockets that are not followed come here. */
static __attribute__((noinline)) int control(int epfd, int op, int fd, struct epoll_event *event)
{
	bool odd = op == EPOLL_CTL_ADD &&
		   fsocket_shadow_on_stack(event, fsocket_shadow_here()) &&
		   event->events & ~PLAIN_EVENTS;

	if ((unsigned int)fd < FSOCKET_MAX_FD && fsocket_fd(fd) == FD_PLAIN &&
	    fsocket_shadow_leave(fd, odd))
		return real_epoll_ctl(epfd, op, fd, event);
	return control_specially(epfd, op, fd, event);
}

static RARELY int control_after_all(int epfd, int op, int fd, struct epoll_event *event)
{
	fsocket_shadow_end();
	return control_specially(epfd, op, fd, event);
}

/* A signal handler has come meanwhile. */
static RARELY int added_after_all(void)
{
	fsocket_shadow_end();
	return 0;
}

static RARELY int added_and_report(void)
{
	if (fsocket_shadow_begin())
		fsocket_shadow_end();
	return 0;
}

int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	uintptr_t here = fsocket_shadow_here();

	/* A socket must be FREE there, so it is neither a listener nor unknown. */
	if (RARE(op != EPOLL_CTL_ADD || (unsigned int)fd >= FSOCKET_MAX_FD ||
		 !fsocket_shadow_add_begin(fd, event, here)))
		return control(epfd, op, fd, event);
	if (RARE(!fsocket_shadow_add(epfd, &fsocket_shadows[fd], event)))
		return control_after_all(epfd, op, fd, event);
	if (RARE(!fsocket_shadow_end_quickly(here)))
		return added_after_all();
	if (RARE(fsocket_saved_calls >= REPORT))
		return added_and_report();
	return 0;
}

static RARELY int wait_specially(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	int count;

	if (fsocket_leaving >= 0)
		fsocket_listener_retire();
	if (fsocket_worker_waits(epfd, events, maxevents, timeout, NULL, &count))
		return count;
	return fsocket_epoll_wait(epfd, events, maxevents, timeout);
}

int epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	if (RARE(fsocket_leaving >= 0 ||
		 atomic_load_explicit(&fsocket_watch_count, memory_order_relaxed)))
		return wait_specially(epfd, events, maxevents, timeout);
	return fsocket_epoll_wait(epfd, events, maxevents, timeout);
}

int epoll_pwait(int epfd, struct epoll_event *events, int maxevents, int timeout,
		const sigset_t *mask)
{
	int count;

	REAL(epoll_pwait);
	if (fsocket_leaving >= 0)
		fsocket_listener_retire();
	if (fsocket_worker_waits(epfd, events, maxevents, timeout, mask, &count))
		return count;
	if (!mask)
		return fsocket_epoll_wait(epfd, events, maxevents, timeout);
	fsocket_epoll_settle(epfd);
	return real(epfd, events, maxevents, timeout, mask);
}

/*
 * The socket is new: no other process has it, and it does not listen. If neither this
 * process nor its parents had a group, nothing more is to be done. Returns fd.
 */
static inline int new_socket(int fd)
{
	if (RARE((unsigned int)fd >= FSOCKET_MAX_FD))
		return fd;
	fsocket_fd_set(fd, FD_PLAIN);
	return fsocket_shadow_new_socket(fd);
}

/* Returns whether the number has a note that is about other descriptors than this thread's. */
static bool noted_elsewhere(int fd)
{
	return fsocket_process_apart ||
	       (RARE(fsocket_fd(fd) & (FD_LISTENER | FD_MEMBER)) && fsocket_process_borrowed());
}

static RARELY int new_socket_beside_groups(int fd)
{
	if (noted_elsewhere(fd))
		return fd;
	/* The program has closed the number by a way that the library does not see. */
	if (fsocket_fd(fd) & (FD_LISTENER | FD_MEMBER))
		fsocket_group_gone(fd, fd);
	fsocket_group_own(fd);
	return new_socket(fd);
}

int socket(int family, int type, int protocol)
{
	int fd;

	REAL(socket);
	fd = real(family, type, protocol);
	if (family == AF_INET || family == AF_INET6)
		new_socket_beside_groups(fd);
	else if (!noted_elsewhere(fd))
		fsocket_fd_set(fd, FD_PLAIN);
	return fd;
}

/* Makes an ioctl in the place of a function that is a cancellation point. */
static int ask_module(unsigned long call, struct fsocket_ioctl_arg *arg)
{
	int ret, type;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	ret = fsocket_device_call(call, arg);
	pthread_setcanceltype(type, NULL);
	return ret;
}

/* Returns whether the module has accepted for the caller; *conn is then the result of accept4(). */
static bool accept_from_pool(int fd, struct sockaddr *addr, socklen_t *len, int flags,
			     int *conn)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };
	unsigned char kind = fsocket_fd(fd);

	if (kind == FD_UNKNOWN)
		kind = fsocket_listener_ask(fd);
	if (!fsocket_features->socket_pool || !(kind & FD_LISTENER))
		return false;
	arg.op.accept_op.sockaddr = addr;
	arg.op.accept_op.sockaddr_len = (int *)len;
	arg.op.accept_op.flags = flags;
	*conn = ask_module(FSOCKET_IOC_ACCEPT, &arg);
	if (*conn >= 0)
		return true;
	if (fsocket_device_unasked(*conn))
		return false;
	errno = -*conn;
	*conn = -1;
	return true;
}

/* Returns whether the kernel backend has accepted for the caller. */
static bool accept_by_worker(int fd, struct sockaddr *addr, socklen_t *len, int flags,
			     int *conn)
{
	if (!atomic_load_explicit(&fsocket_group_count, memory_order_relaxed))
		return false;
	if (fsocket_fd(fd) == FD_UNKNOWN)
		fsocket_listener_ask(fd);
	return fsocket_worker_accept(fd, addr, len, flags, conn);
}

REAL_LATER(accept, (int fd, struct sockaddr *addr, socklen_t *len), (fd, addr, len))
REAL_LATER(accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags),
	   (fd, addr, len, flags))
REAL_LATER(close, (int fd), (fd))

/* Returns whether accept() has more to do than to call the C library's and to note the result. */
static inline bool accept_is_special(int fd)
{
	return fsocket_group_was() || fsocket_features->socket_pool || fsocket_fd(fd) == FD_UNKNOWN;
}

static RARELY int accepted_beside_groups(int fd, int conn)
{
	new_socket_beside_groups(conn);
	fsocket_group_accepted(fd, conn);
	return conn;
}

static inline int accepted(int fd, int conn)
{
	if (RARE(fsocket_group_was()))
		return accepted_beside_groups(fd, conn);
	return new_socket(conn);
}

static RARELY int accept4_specially(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn;

	/* The kernel says that other flags are wrong. Flags below 0 mean accept() below. */
	if ((flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK) ||
	     !accept_by_worker(fd, addr, len, flags, &conn)) &&
	    !accept_from_pool(fd, addr, len, flags, &conn))
		conn = real_accept4(fd, addr, len, flags);
	return accepted(fd, conn);
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (RARE(accept_is_special(fd)))
		return accept4_specially(fd, addr, len, flags);
	return accepted(fd, real_accept4(fd, addr, len, flags));
}

static RARELY int accept_specially(int fd, struct sockaddr *addr, socklen_t *len)
{
	int conn;

	if (!accept_by_worker(fd, addr, len, -1, &conn) &&
	    !accept_from_pool(fd, addr, len, 0, &conn))
		conn = real_accept(fd, addr, len);
	return accepted(fd, conn);
}

int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	if (RARE(accept_is_special(fd)))
		return accept_specially(fd, addr, len);
	return accepted(fd, real_accept(fd, addr, len));
}

/* A listener that is connected to AF_UNSPEC listens no more, as after shutdown(). */
static RARELY int connect_beside_groups(int fd, const struct sockaddr *addr, socklen_t len)
{
	int ret;

	REAL(connect);
	ret = real(fd, addr, len);
	/* addr can surely be read only if the call has succeeded. */
	if (!ret && addr->sa_family == AF_UNSPEC)
		fsocket_group_shutdown(fd);
	return ret;
}

int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	REAL(connect);
	if (RARE(atomic_load_explicit(&fsocket_group_count, memory_order_relaxed)))
		return connect_beside_groups(fd, addr, len);
	if (fsocket_features->receive_flow_deliver) {
		struct fsocket_ioctl_arg arg = { .fd = fd };
		int ret;

		arg.op.connect_op.sockaddr = addr;
		arg.op.connect_op.sockaddr_len = len;
		ret = ask_module(FSOCKET_IOC_CONNECT, &arg);
		if (!ret)
			return 0;
		if (!fsocket_device_unasked(ret)) {
			errno = -ret;
			return -1;
		}
	}
	return real(fd, addr, len);
}

static RARELY int close_listener(int fd)
{
	int ret;

	if (fsocket_group_was())
		fsocket_group_closes(fd);
	if (fsocket_listener_close(fd))
		return 0;
	ret = real_close(fd);
	if (fsocket_group_was())
		fsocket_group_closed();
	return ret;
}

static RARELY int close_specially(int fd)
{
	unsigned char kind = fsocket_fd(fd);

	/* The program does not know this descriptor, so for the program it does not exist. */
	if ((kind == FD_DEVICE && fsocket_device_is(fd)) ||
	    (kind == FD_MEMBER && fsocket_group_member(fd))) {
		errno = EBADF;
		return -1;
	}
	if (fsocket_process_apart)
		return real_close(fd);
	fsocket_epoll_close(fd);
	if (fsocket_group_was())
		fsocket_group_own(fd);
	if (kind & FD_LISTENER || fsocket_group_has(fd)) {
		/* Where the thread ends in close(), the listener and its group stay. */
		pthread_testcancel();
		fsocket_group_gone(fd, fd);
	} else if (atomic_load_explicit(&fsocket_watch_count, memory_order_relaxed))
		fsocket_worker_close(fd);
	if (kind & FD_LISTENER)
		return close_listener(fd);
	if (kind == FD_PLAIN)
		fsocket_fd_set(fd, FD_UNKNOWN);
	return real_close(fd);
}

int close(int fd)
{
	if (RARE(fsocket_fd(fd) != FD_PLAIN || fsocket_group_was() || fsocket_shadow_special(fd)))
		return close_specially(fd);
	fsocket_shadow_close_socket(fd);
	/* Forget the number before it is closed: another thread may get it right after that. */
	fsocket_fd_set(fd, FD_UNKNOWN);
	return real_close(fd);
}

extern __typeof__(close) __close __attribute__((alias("close")));
