// SPDX-License-Identifier: GPL-2.0-only
/* epoll_wait() where sockets float (enable_fast_epoll; epoll.c says why that is the same). */
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
 * No thread is cancelled here, as pthread_cancel() ends all this: see escape.c. errno stays as it
 * is, and the result is -ERRNO.
 */
static inline int ask(struct pollfd *polled, long count, int timeout)
{
	return RAW3(SYS_poll, polled, count, timeout);
}

/* What is in the instance, without waiting. */
static inline int fetch(int epfd, struct epoll_event *events, int maxevents)
{
	fsocket_saved_calls--;
	return RAW4(SYS_epoll_wait, epfd, events, maxevents, 0);
}

/* Puts what floats in the instance behind polled[0], and returns the number of all. */
static long gather(uint32_t id, struct pollfd *polled)
{
	long count = 1;

	/* Go backwards, since the last entry takes the place of one that is settled. */
	for (int i = fsocket_owed_count - 1; i >= 0; i--) {
		struct shadow *s = fsocket_owed[i];

		if (s->state <= FREE) {
			if (!s->waits--)
				fsocket_shadow_strike(s);
			continue;
		}
		if (s->instance != id)
			continue;
		if (s->state != FLOATING || !s->waits--)
			fsocket_shadow_settle(s);
		if (s->state == FLOATING)
			polled[count++] = (struct pollfd){ .fd = s->fd, .events = s->events };
	}
	return count;
}

/* The result of poll() finds no room, or nothing is open under the number any more. */
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
 * Adds what poll() said about so many sockets from p on to the count events that are there, and
 * returns their number then.
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

/* So many milliseconds are left. */
static int left(int64_t until)
{
	int64_t now = now_ms();

	return until > now ? until - now : 0;
}

/*
 * poll() fails as epoll_wait() would when a signal comes. It fails otherwise where it cannot be
 * used: RLIMIT_NOFILE, which it heeds, has been lowered, or a seccomp filter allows epoll_wait()
 * only.
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
 * What a wait asks poll(): about the instance, and about the sockets that float in it, as they were
 * when it began.
 */
struct question {
	unsigned int changes;
	struct pollfd polled[1 + MAX_OWED];
};

/*
 * poll() has answered about ready sockets from p on, and there are count events, or -ERRNO.
 * Returns what epoll_wait() does, or 0 if nothing was ready after all.
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
	/* What a signal handler has changed meanwhile is not told; the next wait says what is so. */
	return q->changes == fsocket_shadow_changes ?
	       merge(p, ready, events, count, maxevents) : count;
}

static int wait_carefully(int epfd, struct epoll_event *events, int maxevents, int timeout)
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
		/* The next call, too, stands for the one of the program. */
		fsocket_saved_calls--;
		if (timeout > 0)
			timeout = left(until);
	}
	return real_epoll_wait(epfd, events, maxevents, timeout);
}

int fsocket_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	if (!fsocket_owed_count)
		return real_epoll_wait(epfd, events, maxevents, timeout);
	return wait_carefully(epfd, events, maxevents, timeout);
}
