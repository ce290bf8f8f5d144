// SPDX-License-Identifier: GPL-2.0-only
/*
 * accept() in the kernel backend. It takes a connection of a listener with members from
 * the member of the calling worker, from the listener itself, or from members of
 * workers that are late.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "clock.h"
#include "device.h"
#include "fds.h"
#include "group.h"
#include "real.h"
#include "worker.h"

/*
 * Every this many accepts the listener itself comes first, so that its queue does not
 * starve.
 */
#define SHARED_TURN	16

/* Increments a counter that only this worker writes. */
static void count(atomic_ulong *what)
{
	atomic_store_explicit(what, atomic_load_explicit(what, memory_order_relaxed) + 1,
			      memory_order_relaxed);
}

/* A filter may allow only the call that the program makes. */
static int accept_plainly(int fd, struct sockaddr *addr, socklen_t *len)
{
	REAL(accept);
	return real(fd, addr, len);
}

static int real_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	REAL(accept4);
	return flags < 0 ? accept_plainly(fd, addr, len) : real(fd, addr, len, flags);
}

/*
 * Stores in fds the listener and those members from which this thread may take a connection,
 * which is none if except is NULL, and polls them.
 */
static int others(int fd, const struct group *g, const bool *except, struct pollfd *fds)
{
	int count = 0;

	fds[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	for (int m = 0; m < g->count && except; m++)
		if (g->route->index[m] && !except[m] && g->members[m] >= 0)
			fds[count++] = (struct pollfd){ .fd = g->members[m], .events = POLLIN };
	return RAW3(SYS_poll, fds, count, 0) > 0 ? count : 0;
}

/*
 * Of what waits in several of these, each comes first in turn, but the members first if overdue, since
 * a worker that is left alone finds connections in the listener all the time.
 */
static bool accept_others(int fd, const struct group *g, struct claim *claim,
			  const bool *except, bool overdue, struct sockaddr *addr, socklen_t *len,
			  int flags, int *conn)
{
	struct pollfd fds[1 + GROUP_MEMBERS];
	int ready = others(fd, g, except, fds);
	unsigned int first = overdue ? 1 : fsocket_mine.accepts;

	/* With two listeners in turn, the numbers of each have steps of two. */
	if (ready && !overdue)
		first = (first + first / ready) % ready;
	for (int i = 0; i < ready; i++) {
		const struct pollfd *p = &fds[(first + i) % ready];

		if (!p->revents)
			continue;
		*conn = real_accept(p->fd, addr, len, flags);
		if (*conn >= 0 && claim)
			count(p == fds ? &claim->shared : &claim->others);
		if (*conn >= 0 || errno != EAGAIN)
			return true;
	}
	return false;
}

/* The program has confined itself: it may make this call alone. */
static bool accept_confined(int fd, const struct group *g, struct sockaddr *addr, socklen_t *len,
			    int flags, int *conn)
{
	*conn = real_accept(fd, addr, len, flags);
	for (int m = 0; m < g->count && *conn < 0 && errno == EAGAIN; m++)
		if (g->route->index[m] && g->members[m] >= 0)
			*conn = real_accept(g->members[m], addr, len, flags);
	return true;
}

bool fsocket_worker_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags, int *conn)
{
	static const bool nobody[GROUP_MEMBERS];
	const bool *except = NULL;
	struct group *g = fsocket_group_of(fd);
	struct claim *claim = NULL;
	int own = -1, saved = errno;
	bool turn, all = false;

	/* A listener that was shut down is alone, also when it listens again. */
	if (!g || atomic_load(&g->route->broken))
		return false;
	if (RARE(fsocket_device_confined()))
		return accept_confined(fd, g, addr, len, flags, conn);
	if (!g->route->listening) {
		fsocket_route_seen(g->route);
		return false;
	}
	for (int i = 0; i < fsocket_mine.count && fsocket_worker_known(); i++) {
		struct watch *w = fsocket_mine.watches[i];
		struct claim *c = w->claim;

		/* A thread that waits for the listener no longer may never look at the others. */
		if (w->group == g && c && w->wanted) {
			claim = c;
			own = member_fd(w);
			all = w->all;
		} else if (w->group == g && !c) {
			/* Here is an accept() that the library sees. */
			w->mute = false;
		}
	}
	turn = ++fsocket_mine.accepts % SHARED_TURN == 0;
	/*
	 * Overdue connections come first: otherwise an own queue that is never empty
	 * would keep them waiting.
	 */
	if (own >= 0 && (turn || fsocket_mine.overdue)) {
		bool stealing = fsocket_mine.overdue;

		/*
		 * Take one connection for each time that look_around() found some:
		 * their worker may take the others.
		 */
		fsocket_mine.overdue = false;
		if (accept_others(fd, g, claim, stealing ? fsocket_mine.timely : NULL, stealing,
				  addr, len, flags, conn)) {
			fsocket_mine.stolen = stealing;
			return true;
		}
	}
	if (own >= 0) {
		*conn = real_accept(own, addr, len, flags);
		if (*conn >= 0 || errno != EAGAIN) {
			if (*conn >= 0)
				count(&claim->own);
			/* The stamp tells the other workers that this one is busy and not late. */
			atomic_store_explicit(&claim->stamp, fsocket_now_ms(), memory_order_relaxed);
			return true;
		}
	}
	errno = saved;
	/*
	 * A thread that is not a worker takes from all members, since epoll may have
	 * reported any of them. So does a worker that has been left alone.
	 */
	if (all || (own < 0 && !claim))
		except = nobody;
	else if (own < 0)
		except = fsocket_mine.timely;
	if (accept_others(fd, g, claim, except, false, addr, len, flags, conn))
		return true;
	/*
	 * accept() would fail with EAGAIN, too; calling it would cost the cache line of the
	 * listener's lock.
	 */
	if (!nonblocking(fd)) {
		/*
		 * The program has made the listener blocking since workers have members, and waits
		 * in accept() itself from now on, where it would not see what comes to the members.
		 */
		fsocket_group_stop(g);
		return accept_others(fd, g, NULL, nobody, false, addr, len, flags, conn);
	}
	/* accept() is a cancellation point. */
	pthread_testcancel();
	errno = EAGAIN;
	*conn = -1;
	return true;
}
