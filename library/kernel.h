/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel backend, by which the library serves an unmodified server without the
 * module. See group.c; the rest of the library uses only these declarations.
 */
#ifndef FSOCKET_KERNEL_H
#define FSOCKET_KERNEL_H

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <threads.h>

#include "real.h"

struct tcp_info;

#pragma GCC visibility push(hidden)

/*
 * Returns whether the kernel backend is in force: FSOCKET_BACKEND is read once in the life of
 * a process.
 */
bool fsocket_kernel_chosen(void);

/* The program starts, and has one thread. */
void fsocket_making_at_start(void);
/*
 * Returns whether this process, or one of its parents, is the child of a process that had other
 * threads. These may have held locks of the dynamic linker, which fork() does not release.
 */
extern bool fsocket_child_of_threads;

/* The number of epoll instances that have a listener with a group; in most programs it is 0. */
extern atomic_int fsocket_watch_count;
/* The number of groups that this process has. */
extern atomic_int fsocket_group_count;
/*
 * Returns whether this process or one of its parents has had a group; otherwise no
 * descriptor has ever been in one.
 */
extern atomic_bool fsocket_group_made;
/* The program has set SO_REUSEPORT of some socket that did not listen, here or in a parent. */
extern atomic_bool fsocket_reuseport_wanted;
static inline bool fsocket_group_was(void)
{
	return atomic_load_explicit(&fsocket_group_made, memory_order_relaxed);
}

/*
 * The listener fd is seen for the first time: it gets a group, if that is possible.
 * made_here: this program has made the socket; if not, it may have a group of the
 * program before. Returns whether it has, so that the library has set SO_REUSEPORT
 * there.
 */
bool fsocket_group_note(int fd, bool made_here);
/* listen() has been called once more, with another backlog. */
void fsocket_group_listen(int fd, int backlog);
/* The program sets an option. Returns false, with errno, if it may not. */
bool fsocket_group_option_allowed(int fd, int level, int name);
void fsocket_group_option_set(int fd, int level, int name, const void *value, socklen_t len);
/*
 * accepted(): conn has been accepted from fd, and has inherited the SO_REUSEPORT that
 * the library has set. child() returns whether conn has inherited the option so, and the
 * program has not set it. own(): the number conn belongs to another socket from now on.
 */
void fsocket_group_accepted(int fd, int conn);
bool fsocket_group_child(int conn);
void fsocket_group_own(int conn);
/* fd sends signals from now on (O_ASYNC), which no member does. */
void fsocket_group_signals(int fd);
/*
 * Adds to what TCP_INFO says of the connections that wait for a listener those that wait in its
 * members. len is what the kernel has stored.
 */
void fsocket_group_info(int fd, struct tcp_info *info, socklen_t len);
/* Returns whether fd is a listener with a group, as far as is known. */
bool fsocket_group_has(int fd);
/* fd is about to get a copy. */
void fsocket_group_copied(int fd);
/* The numbers from first to last are about to be closed, or to become those of other files. */
void fsocket_group_gone(unsigned int first, unsigned int last);
/*
 * A listener has been closed. Another thread may have closed a copy meanwhile, and each may have
 * found the number of the other one still open.
 */
void fsocket_group_closed(void);
/* fd is about to be closed, by a program that has restricted its system calls. */
void fsocket_group_closes(int fd);
/* fd is about to be shut down, and then listens no more. */
void fsocket_group_shutdown(int fd);
/* Returns whether fd is a socket of the library that the program does not know. */
bool fsocket_group_member(int fd);

/*
 * This thread may be about to get descriptors of its own: no group is made until it has called the
 * second function, which closes its copies of those that belong to the library.
 */
void fsocket_group_leave(void);
void fsocket_group_left(bool apart);

/* The program's epoll_ctl() of a listener has succeeded. */
void fsocket_group_ctl(int epfd, int op, int fd, const struct epoll_event *event);
/* This thread is a worker no longer, unless it waits again. */
void fsocket_worker_leave(void);
/* The epoll instance is about to be closed. */
void fsocket_worker_close(int epfd);
/* So are all numbers from first to last, which may be instances. */
void fsocket_worker_close_range(unsigned int first, unsigned int last);
/*
 * Does epoll_wait(), or epoll_pwait() with a mask, in an instance that has such a listener.
 * Returns false if it has none and the caller has to wait.
 */
bool fsocket_worker_wait(int epfd, struct epoll_event *events, int maxevents, int timeout,
			 const sigset_t *mask, int *count);
/*
 * Makes one event of those of a listener and its member that the wait has returned, and returns
 * their number then.
 */
int fsocket_worker_merge(int epfd, struct epoll_event *events, int count);
static inline int fsocket_worker_one_each(int epfd, struct epoll_event *events, int count)
{
	/* Two events are the usual case: a connection comes, and one has sent its request. */
	if (count > 2 || (count == 2 && RARE(events[0].data.u64 == events[1].data.u64)))
		return fsocket_worker_merge(epfd, events, count);
	return count;
}

/* Does the same as fsocket_worker_wait(), and makes one event of those. */
static inline bool fsocket_worker_waits(int epfd, struct epoll_event *events, int maxevents,
					int timeout, const sigset_t *mask, int *count)
{
	if (!atomic_load_explicit(&fsocket_watch_count, memory_order_relaxed) ||
	    !fsocket_worker_wait(epfd, events, maxevents, timeout, mask, count))
		return false;
	*count = fsocket_worker_one_each(epfd, events, *count);
	return true;
}

/*
 * Does accept4() of such a listener. Returns false if fd is none and the caller has to accept. Flags
 * below 0: accept() is called, and not accept4().
 */
bool fsocket_worker_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags, int *conn);
/* What select() reads of a set, in bytes. */
#define FSOCKET_SET_SIZE(highest) \
	((highest) > 0 ? ((highest) + NFDBITS - 1) / NFDBITS * sizeof(fd_mask) : 0)
/*
 * Return whether the arguments, which may be bad pointers, name such a listener, which members
 * stand beside, and whether a limit of time, a struct timespec or timeval, is none or valid. Then
 * the functions after them do what poll(), ppoll(), select() and pselect() do, and look at the
 * members from time to time.
 */
bool fsocket_bystander_polls(const struct pollfd *fds, unsigned int count);
bool fsocket_bystander_selects(int highest, const fd_set *const sets[3]);
bool fsocket_bystander_limit(const long *limit);
int fsocket_bystander_poll(struct pollfd *fds, nfds_t count, int timeout);
int fsocket_bystander_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
			    const sigset_t *mask);
int fsocket_bystander_select(int highest, fd_set *readable, fd_set *writable, fd_set *others,
			     struct timeval *timeout);
int fsocket_bystander_pselect(int highest, fd_set *readable, fd_set *writable, fd_set *others,
			      const struct timespec *timeout, const sigset_t *mask);
/*
 * The program restricts its system calls, or ends: this process has no workers after this.
 * Unless it ends, it still takes what waits in members.
 */
void fsocket_worker_confine(bool ends);

/*
 * apart.c: the program is about to call close_range() with CLOSE_RANGE_UNSHARE. Other threads have
 * the descriptors that this one has had so far.
 */
void fsocket_apart_range(unsigned int first, unsigned int last);
/* Do the same as the functions after apart_ for a thread that has descriptors of its own. */
int fsocket_apart_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
				 void *(*function)(void *), void *arg);
int fsocket_apart_thrd_create(thrd_t *thread, thrd_start_t function, void *arg);

/*
 * Called before a thread, a child or a program is started, which may run on all CPUs
 * that the program has chosen.
 */
void fsocket_pin_lift(void);

#pragma GCC visibility pop

#endif
