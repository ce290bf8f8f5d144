// SPDX-License-Identifier: GPL-2.0-only
/*
 * epoll_wait() when sockets float (enable_fast_epoll; epoll.c explains why the answers
 * are the same).
 *
 * There are two versions, since every connection of a server passes here. The quick
 * one, for the usual case, calls no other function, so it has few registers to save.
 * The careful one handles everything.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "epoll.h"
#include "real.h"
#include "shadow.h"

/* The kernel's limit to maxevents. */
#define MAX_EVENTS	(INT_MAX / (int)sizeof(struct epoll_event))

REAL_LATER(epoll_wait, (int epfd, struct epoll_event *events, int maxevents, int timeout),
	   (epfd, events, maxevents, timeout))

/*
 * A system call that is no cancellation point: pthread_cancel() ends all this, see
 * escape.c. errno stays as it is, and the result is -ERRNO.
 */
static inline int ask(struct pollfd *polled, long count, int timeout)
{
	return RAW3(SYS_poll, polled, count, timeout);
}

/* Reports the events of the instance without waiting. */
static inline int fetch(int epfd, struct epoll_event *events, int maxevents)
{
	fsocket_saved_calls--;
	return RAW4(SYS_epoll_wait, epfd, events, maxevents, 0);
}

/* Returns whether s has had its last wait, in two instructions; the compiler makes five of it. */
static inline bool waited_out(struct shadow *s)
{
	bool below;

	asm("subb $1, %0" : "+m"(s->waits), "=@ccc"(below));
	if (RARE(below))
		s->waits = 0;
	return below;
}

/* Puts the sockets that float in the instance behind polled[0], and returns the number of all. */
static long gather(uint32_t id, struct pollfd *polled)
{
	long count = 1;

	/* Go backwards, since the last entry takes the place of one that is settled. */
	for (int i = fsocket_owed_count - 1; i >= 0; i--) {
		struct shadow *s = fsocket_owed[i];

		if (s->state <= FREE) {
			if (waited_out(s))
				fsocket_shadow_strike(s);
			continue;
		}
		if (s->instance != id)
			continue;
		/* A socket that the kernel does not take is offered to it again each time. */
		if (s->state != FLOATING || waited_out(s))
			fsocket_shadow_settle(s);
		if (s->state == FLOATING)
			polled[count++] = (struct pollfd){ .fd = s->fd, .events = s->events };
	}
	return count;
}

/* The result of poll() has no room left, or the program has closed the number. */
static void leave_out(const struct pollfd *p)
{
	if (!fsocket_shadow_begin())
		return;
	if (p->revents & POLLNVAL)
		fsocket_shadow_drop(p->fd);
	else
		fsocket_shadow_settle(&fsocket_shadows[p->fd]);
	fsocket_shadow_end();
}

static inline void tell(struct epoll_event *event, const struct pollfd *p)
{
	event->events = (unsigned short)p->revents;
	event->data.u64 = fsocket_shadows[p->fd].data;
}

/*
 * Adds the answers of poll() about this many sockets from p on to the count events that
 * are there, and returns the new number of events.
 */
static int merge(const struct pollfd *p, int ready, struct epoll_event *events, int count,
		 int maxevents)
{
	for (; ready > 0; p++) {
		if (!p->revents)
			continue;
		ready--;
		if (p->revents & POLLNVAL || count == maxevents)
			leave_out(p);
		else
			tell(&events[count++], p);
	}
	return count;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Returns the milliseconds that are left. */
static int left(int64_t until)
{
	int64_t now = now_ms();

	return until > now ? until - now : 0;
}

/*
 * poll() fails with EINTR when a signal comes, as epoll_wait() would. It fails
 * otherwise if it cannot be used: RLIMIT_NOFILE, which it checks, has been lowered, or
 * a seccomp filter allows epoll_wait() only.
 */
static RARELY int wait_failed(int epfd, struct epoll_event *events, int maxevents, int timeout,
			      int error)
{
	if (error == -EINTR) {
		errno = EINTR;
		return -1;
	}
	fsocket_epoll_give_up();
	return real_epoll_wait(epfd, events, maxevents, timeout);
}

/*
 * The arguments of poll() for a wait: the instance, and the sockets that floated in it
 * when the wait began. They are in memory, so that registers are left for the rest.
 */
struct question {
	unsigned int changes;
	int timeout;
	struct pollfd polled[1 + MAX_OWED];
};

/*
 * poll() has answered about ready sockets from p on, and there are count events, or
 * -ERRNO. Returns the result of epoll_wait(), or 0 if nothing was ready after all.
 */
static int finish(const struct question *q, const struct pollfd *p, int ready,
		  struct epoll_event *events, int count, int maxevents)
{
	if (count < 0 && !ready) {
		errno = -count;
		return -1;
	}
	if (count < 0)
		count = 0;
	/*
	 * Changes that a signal handler has made meanwhile are not reported; the next
	 * wait reports them.
	 */
	return q->changes == fsocket_shadow_changes ?
	       merge(p, ready, events, count, maxevents) : count;
}

static RARELY int wait_carefully(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	bool possible = maxevents > 0 && maxevents <= MAX_EVENTS;
	int64_t until = timeout > 0 ? now_ms() + timeout : 0;
	struct question q;
	int ready, count;
	long asked;

	while (fsocket_shadow_begin()) {
		if (!possible || !fsocket_shadow_following())
			fsocket_shadow_settle_instance(fsocket_shadow_find_instance(epfd));
		asked = gather(fsocket_shadow_find_instance(epfd), q.polled);
		q.changes = fsocket_shadow_changes;
		fsocket_shadow_end();
		if (asked == 1 || !possible)
			break;
		q.polled[0] = (struct pollfd){ .fd = epfd, .events = POLLIN };
		ready = ask(q.polled, asked, timeout);
		if (ready < 0)
			return wait_failed(epfd, events, maxevents, timeout, ready);
		if (!ready)
			return 0;
		count = 0;
		if (q.polled[0].revents) {
			ready--;
			count = fetch(epfd, events, maxevents);
		}
		count = finish(&q, &q.polled[1], ready, events, count, maxevents);
		if (count)
			return count;
		/* The next call also replaces the program's one. */
		fsocket_saved_calls--;
		if (timeout > 0)
			timeout = left(until);
	}
	return real_epoll_wait(epfd, events, maxevents, timeout);
}

static RARELY int wait_after_all(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	fsocket_shadow_end();
	return wait_carefully(epfd, events, maxevents, timeout);
}

/*
 * Puts the sockets that float in the instance behind polled[0], and returns the number
 * of all; 0 if a call has to be made first.
 */
static inline long gather_quickly(uint32_t id, struct pollfd *polled)
{
	struct shadow **owed = &fsocket_owed[fsocket_owed_count];
	long count = 1;

	while (owed > fsocket_owed) {
		struct shadow *s = *--owed;

		if (s->state != FLOATING) {
			if (s->state > FLOATING)
				return 0;
			if (waited_out(s))
				fsocket_shadow_strike(s);
			continue;
		}
		if (s->instance != id)
			continue;
		if (RARE(waited_out(s)))
			return 0;
		/* This sets fd and events, and the member that poll() overwrites. */
		memcpy(&polled[count++], &s->fd, sizeof(*polled));
	}
	return count;
}

static RARELY int finish_carefully(const struct question *q, const struct pollfd *p, int ready,
				   struct epoll_event *events, int count, int maxevents)
{
	count = finish(q, p, ready, events, count, maxevents);
	if (count)
		return count;
	fsocket_saved_calls--;
	return wait_carefully(q->polled[0].fd, events, maxevents, q->timeout);
}

/* This is for the first instance, the only one in most programs, and without a time limit. */
static int wait_quickly(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	const struct pollfd *p;
	struct question q;
	uintptr_t here = fsocket_shadow_here();
	int ready, count = 0;
	long asked;

	fsocket_shadow_begin_quickly(here);
	/* From now on the arguments need no registers. */
	q.timeout = timeout;
	q.polled[0] = (struct pollfd){ .fd = epfd, .events = POLLIN };
	asked = gather_quickly(fsocket_instances[0].id, q.polled);
	q.changes = fsocket_shadow_changes;
	if (RARE(!asked || !fsocket_shadow_end_quickly(here)))
		return wait_after_all(q.polled[0].fd, events, maxevents, q.timeout);
	if (asked == 1)
		return real_epoll_wait(q.polled[0].fd, events, maxevents, q.timeout);
	ready = ask(q.polled, asked, q.timeout);
	if (RARE(ready <= 0))
		return ready ? wait_failed(q.polled[0].fd, events, maxevents, q.timeout, ready) : 0;
	if (q.polled[0].revents) {
		ready--;
		count = fetch(q.polled[0].fd, events, maxevents);
	}
	if (RARE(count < 0 || (unsigned int)(count + ready) - 1 >= (unsigned int)maxevents ||
		 q.changes != fsocket_shadow_changes))
		return finish_carefully(&q, &q.polled[1], ready, events, count, maxevents);
	for (p = &q.polled[1]; ready; p++) {
		if (!p->revents)
			continue;
		if (RARE(p->revents & POLLNVAL))
			return finish_carefully(&q, p, ready, events, count, maxevents);
		tell(&events[count++], p);
		ready--;
	}
	return count;
}

int fsocket_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	if (!fsocket_owed_count)
		return real_epoll_wait(epfd, events, maxevents, timeout);
	/* A signal handler may have interrupted a change, or have jumped out of it. */
	if (RARE(timeout > 0 || maxevents <= 0 || maxevents > MAX_EVENTS ||
		 fsocket_instances[0].fd != epfd || !fsocket_instances[0].id ||
		 fsocket_shadow_busy || !fsocket_features->fast_epoll))
		return wait_carefully(epfd, events, maxevents, timeout);
	return wait_quickly(epfd, events, maxevents, timeout);
}
