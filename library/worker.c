// SPDX-License-Identifier: GPL-2.0-only
/*
 * Workers of the kernel backend. A worker is a thread that has a listener in an epoll
 * instance, waits for it, and accepts.
 *
 * The program's registration of its listener stays as it is. The library registers a
 * worker's member beside it with the same events and data, so events of the member look
 * like events of the listener. accept() of the listener then takes from the member,
 * from the listener itself, and from the members of workers that are late, stopped, or
 * dead.
 *
 * Waiting makes a claim, and registering does not: the thread that waits in an instance
 * is the worker, and if a second thread waits in the same instance, neither is a
 * worker.
 *
 * While there are other workers, an idle worker looks up, ever less often: it checks
 * the route for changes, and the other members for overdue connections. Between two
 * looks it waits with all signals blocked except in epoll_pwait() itself, so that a
 * signal which comes between two looks ends the wait as it would have without the
 * library.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "device.h"
#include "fds.h"
#include "memory.h"
#include "process.h"
#include "real.h"
#include "signals.h"
#include "worker.h"

#define MAX_WATCHES	1024
/* After so many looks a worker that leaves its connections alone gets no more. */
#define UNHEEDED_LOOKS	4

atomic_int fsocket_watch_count;

static struct watch watches[MAX_WATCHES];
static int watches_end;
/* Incremented whenever a watch is added or removed. */
static atomic_uint version;

__thread struct worker fsocket_mine __attribute__((tls_model("initial-exec")));

static int call_epoll(int epfd, int op, int fd, const struct epoll_event *event)
{
	return RAW4(SYS_epoll_ctl, epfd, op, fd, event);
}

static struct watch *find_watch(int epfd, int fd)
{
	for (int i = 0; i < watches_end; i++)
		if (watches[i].group && watches[i].epfd == epfd && watches[i].fd == fd)
			return &watches[i];
	return NULL;
}

static void give_up(struct watch *w)
{
	bool last = true;

	if (!w->claim)
		return;
	fsocket_place_leave(w);
	fsocket_route_release(w->group, w->claim, w->owner);
	w->claim = NULL;
	w->active = false;
	for (int i = 0; i < watches_end; i++)
		last &= !watches[i].group || watches[i].thread != w->thread || !watches[i].claim;
	if (last && w->thread == &fsocket_mine)
		fsocket_pin_end();
}

static void remove_watch(struct watch *w)
{
	give_up(w);
	w->group = NULL;
	atomic_fetch_add(&version, 1);
	atomic_fetch_sub(&fsocket_watch_count, 1);
}

void fsocket_worker_leave(void)
{
	if (!fsocket_worker_hold())
		return;
	for (int i = 0; i < watches_end; i++)
		if (watches[i].group && watches[i].thread == &fsocket_mine) {
			give_up(&watches[i]);
			watches[i].thread = NULL;
		}
	fsocket_worker_let_go();
}

static void thread_ends(void *unused)
{
	(void)unused;
	fsocket_worker_leave();
}

/* The epoll instances belong to the parent, which may be the worker. */
static void in_child(void)
{
	/* A signal handler may have forked within a wait, which then goes on here. */
	fsocket_mine = (struct worker){ .late = fsocket_mine.late };
	for (int i = 0; i < watches_end; i++) {
		watches[i].claim = NULL;
		watches[i].all = false;
		watches[i].crowd = true;
	}
}

/* Returns whether the library learns when this thread ends. */
static bool prepare(void)
{
	static pthread_key_t key;
	static bool prepared;

	/* The program may use all keys itself. */
	if (!prepared)
		prepared = !pthread_key_create(&key, thread_ends);
	return prepared && !pthread_setspecific(key, &fsocket_mine);
}

static struct watch *new_watch(int epfd, int fd, struct group *g)
{
	static atomic_bool prepared;

	if (!atomic_exchange(&prepared, true))
		fsocket_process_at_copy(in_child);
	for (int i = 0; i < MAX_WATCHES; i++) {
		struct watch *w = &watches[i];

		if (w->group)
			continue;
		*w = (struct watch){ .epfd = epfd, .fd = fd, .group = g };
		if (i >= watches_end)
			watches_end = i + 1;
		atomic_fetch_add(&version, 1);
		atomic_fetch_add(&fsocket_watch_count, 1);
		return w;
	}
	return NULL;
}

/*
 * A program that has confined itself makes no calls to look at other workers, so it is no
 * worker, and has all members in its instance: it takes what is left there, by the calls
 * that it makes itself.
 */
static void watch_all(struct watch *w)
{
	if (!w->wanted) {
		fsocket_members_watch(w->group, w->epfd, EPOLL_CTL_DEL, NULL);
		return;
	}
	fsocket_members_watch(w->group, w->epfd, EPOLL_CTL_ADD, &w->event);
	fsocket_members_watch(w->group, w->epfd, EPOLL_CTL_MOD, &w->event);
}

void fsocket_worker_ctl(struct group *g, int epfd, int op, int fd,
			const struct epoll_event *event)
{
	bool wanted = op != EPOLL_CTL_DEL && event->events & EPOLLIN &&
		      !(event->events & EPOLLONESHOT);
	struct watch *w;

	if (!fsocket_worker_hold())
		return;
	w = find_watch(epfd, fd);
	if (wanted && !w)
		w = new_watch(epfd, fd, g);
	if (w) {
		w->wanted = wanted;
		if (wanted)
			w->event = *event;
	}
	if (w && fsocket_device_confined()) {
		watch_all(w);
	} else if (w && wanted) {
		if (w->ours && call_epoll(epfd, EPOLL_CTL_MOD, member_fd(w), event))
			w->ours = false;
		if (w->all)
			fsocket_members_watch(g, epfd, EPOLL_CTL_MOD, event);
		fsocket_place_enter(w);
		/* It may have been deleted and added, while its worker is alone. */
		if (w->claim && !w->active && g->route->listening)
			fsocket_place_all(w, true);
	} else if (w) {
		fsocket_place_leave(w);
	}
	fsocket_worker_let_go();
}

void fsocket_worker_close(int epfd)
{
	bool any = false;

	/* A server closes each of its connections here. */
	for (int i = 0; i < watches_end; i++)
		any |= watches[i].group && watches[i].epfd == epfd;
	if (!any || fsocket_process_borrowed() || !fsocket_worker_hold())
		return;
	for (int i = 0; i < watches_end; i++)
		if (watches[i].group && watches[i].epfd == epfd)
			remove_watch(&watches[i]);
	fsocket_worker_let_go();
}

void fsocket_worker_close_range(unsigned int first, unsigned int last)
{
	for (int i = 0; i < watches_end; i++)
		if (watches[i].group && (unsigned int)watches[i].epfd - first <= last - first)
			fsocket_worker_close(watches[i].epfd);
}

void fsocket_worker_forsake(struct group *g, int member)
{
	if (!fsocket_worker_hold())
		return;
	for (int i = 0; i < watches_end; i++) {
		struct watch *w = &watches[i];

		if (w->group == g && member < 0)
			remove_watch(w);
		else if (w->group == g && w->claim && (w->all || w->claim->member == member))
			give_up(w);
	}
	fsocket_worker_let_go();
}

void fsocket_worker_confine(bool ends)
{
	/* The numbers in the instances may be those of other files here. */
	if (fsocket_process_apart && !ends)
		return;
	if (!fsocket_watch_count || fsocket_device_confined() || !fsocket_worker_hold())
		return;
	for (int i = 0; i < watches_end; i++) {
		struct watch *w = &watches[i];

		if (w->group && ends) {
			remove_watch(w);
		} else if (w->group) {
			give_up(w);
			watch_all(w);
		}
	}
	fsocket_worker_let_go();
}

/*
 * Prepares the calling thread's wait in the instance of w. asks: it does not wait there, but only
 * asks what is ready, as a program does that waits for the instance by poll() or in another one. It
 * never looks up at the others then, so this makes no worker of it.
 */
static void settle(struct watch *w, bool asks)
{
	struct route *r = w->group->route;

	if (w->thread != &fsocket_mine) {
		w->crowd |= w->thread && w->wanted;
		w->thread = &fsocket_mine;
	}
	if (!w->wanted || w->crowd || w->mute || atomic_load(&r->broken)) {
		/* A thread that has no members may have shut down the listener. */
		if (w->claim && atomic_load(&r->broken))
			fsocket_members_shut_down(w->group);
		give_up(w);
		return;
	}
	if (w->claim && w->claim->owner != w->owner) {
		if (w->all)
			fsocket_place_leave(w);
		w->claim = NULL;
		w->ours = false;
	}
	if (!w->claim) {
		if (asks || !nonblocking(w->fd))
			return;
		if (prepare())
			w->claim = fsocket_route_claim(w->group, &w->owner);
		if (!w->claim) {
			w->retry = fsocket_now_ms() + SILENT(r);
			return;
		}
		w->generation = r->generation - 1;
	}
	if (w->generation == r->generation && !w->alone_since && !(w->all && w->active) &&
	    (w->claim->ready || !w->active))
		return;
	w->generation = r->generation;
	fsocket_place_look(w, atomic_load(&r->seen) &&
			   /* Workers that ended before may have left connections behind. */
			   (fsocket_route_live(r) >= 2 || fsocket_members_readable(w->group, NULL)));
	if (!w->active)
		atomic_store(&w->claim->looks, false);
	fsocket_place_all(w, !w->active && r->listening);
	if (!w->active || w->alone_since || w->all)
		return;
	if (w->claim->ready)
		fsocket_place_spread();
	else
		fsocket_place_take(w);
}

bool fsocket_worker_known(void)
{
	return fsocket_mine.version == atomic_load(&version);
}

static void stamp(bool waiting)
{
	long now = fsocket_now_ms();

	for (int i = 0; i < fsocket_mine.count; i++) {
		struct claim *c = fsocket_mine.watches[i]->claim;

		if (!c)
			continue;
		atomic_store_explicit(&c->stamp, now, memory_order_relaxed);
		atomic_store_explicit(&c->waiting, waiting, memory_order_release);
	}
}

/*
 * If connections have waited in the worker's own member, or in the others that it has in its instance,
 * for several looks, and it has not called accept(), it makes the system call itself, which does not
 * take from there, or it does not want them. Then others have to take them. Returns whether that is so.
 */
static bool give_up_unheeded(struct watch *w)
{
	struct pollfd own = { .fd = member_fd(w), .events = POLLIN };

	if (fsocket_mine.accepts != w->accepts ||
	    !(w->all ? fsocket_members_readable(w->group, NULL) : RAW3(SYS_poll, &own, 1, 0) > 0)) {
		w->accepts = fsocket_mine.accepts;
		w->unheeded = 0;
		return false;
	}
	if (++w->unheeded < UNHEEDED_LOOKS)
		return false;
	give_up(w);
	w->mute = true;
	return true;
}

/* Does what look_around() does, while the watches stay as they are. */
static int look_at_all(struct epoll_event *event, bool idle, bool *away)
{
	bool timely[GROUP_MEMBERS];

	for (int i = 0; i < fsocket_mine.count; i++) {
		struct watch *w = fsocket_mine.watches[i];
		struct route *r = w->group->route;

		if (!w->claim || !w->active || !w->ours)
			continue;
		if (give_up_unheeded(w))
			continue;
		fsocket_route_tend(w->group);
		*away |= fsocket_route_timely(r, w->claim,
					       idle ? late_of(r) : STALE(r),
					       timely);
		fsocket_place_recall(w, timely);
		if (!fsocket_members_readable(w->group, timely))
			continue;
		/* The number may be another instance's by now, which the library has not seen. */
		if (call_epoll(w->epfd, EPOLL_CTL_MOD, member_fd(w), &w->event) == -ENOENT) {
			w->ours = false;
			continue;
		}
		if (!fsocket_writable(event, sizeof(*event))) {
			errno = EFAULT;
			return -1;
		}
		event->events = w->event.events & (EPOLLIN | EPOLLRDNORM);
		event->data = w->event.data;
		memcpy(fsocket_mine.timely, timely, sizeof(fsocket_mine.timely));
		fsocket_mine.overdue = true;
		return 1;
	}
	return 0;
}

/*
 * Returns 1 if connections wait that no other worker will take in time, and then stores in
 * *event what to report to the program; -1, with errno, if that cannot be stored; or 0. *away: a
 * worker is out of its wait.
 */
static int look_around(struct epoll_event *event, bool idle, bool *away)
{
	int found;

	*away = false;
	fsocket_mine.looked = fsocket_now_ms();
	if (!fsocket_worker_hold())
		return 0;
	found = fsocket_worker_known() ? look_at_all(event, idle, away) : 0;
	fsocket_worker_let_go();
	return found;
}

static int real_pwait(int epfd, struct epoll_event *events, int maxevents, int timeout,
		      const sigset_t *mask)
{
	REAL(epoll_pwait);
	return real(epfd, events, maxevents, timeout, mask);
}

static int real_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	REAL(epoll_wait);
	return real(epfd, events, maxevents, timeout);
}

/* A watch without a claim has given up all that settle() would have it give up. */
static RARELY bool settled_without_claim(const struct watch *w, bool asks)
{
	return (w->thread == &fsocket_mine && !w->wanted) || w->crowd || w->mute || asks ||
	       fsocket_now_ms() < w->retry;
}

/*
 * Returns whether there is nothing to settle, without the lock: a signal handler or another thread
 * may remove the watch meanwhile.
 */
static bool settled(const struct watch *w, bool asks)
{
	const struct group *g = w->group;
	const struct claim *c = w->claim;

	if (RARE(!c))
		return g && settled_without_claim(w, asks);
	return w->thread == &fsocket_mine && w->wanted && g &&
	       w->generation == atomic_load(&g->route->generation) && c->owner == w->owner &&
	       !w->alone_since && !(w->active && (!c->ready || w->all)) && !atomic_load(&g->route->broken);
}

static bool settle_all(bool asks)
{
	bool active = false;

	fsocket_mine.claims = false;
	for (int i = 0; i < fsocket_mine.count; i++) {
		struct watch *w = fsocket_mine.watches[i];

		if (!settled(w, asks)) {
			if (!fsocket_worker_hold())
				return false;
			if (fsocket_worker_known())
				settle(w, asks);
			fsocket_worker_let_go();
		}
		active |= w->active && w->claim;
		fsocket_mine.claims |= !!w->claim;
	}
	return active;
}

static int look_every(void)
{
	return LOOK_EVERY(fsocket_mine.late);
}

/* A worker that is left alone has all members in its instance, and would never sleep. */
static void look_alone(void)
{
	bool all = false;

	for (int i = 0; i < fsocket_mine.count; i++)
		all |= fsocket_mine.watches[i]->all;
	if (!all || fsocket_now_ms() - fsocket_mine.looked < look_every() || !fsocket_worker_hold())
		return;
	fsocket_mine.looked = fsocket_now_ms();
	for (int i = 0; i < fsocket_mine.count && fsocket_worker_known(); i++) {
		struct watch *w = fsocket_mine.watches[i];

		if (w->all && w->claim)
			give_up_unheeded(w);
	}
	fsocket_worker_let_go();
}

static int slice(int left, int look)
{
	return left >= 0 && left < look ? left : look;
}

/* Waits, and looks up at the other workers from time to time. */
static int wait_looking(int epfd, struct epoll_event *events, int maxevents, int timeout,
			const sigset_t *mask)
{
	int64_t until = fsocket_now_ns() + timeout * 1000000LL;
	int count, left = timeout, look = fsocket_mine.late, rest, saved = errno;
	bool away;
	sigset_t own;

	fsocket_signals_block(&own);
	for (;;) {
		stamp(true);
		count = fsocket_worker_blocked(epfd, events, maxevents, slice(left, look),
					       mask ? mask : &own, &own);
		if (count)
			break;
		if (timeout >= 0) {
			/* Round up, by an exact clock, so that no wait ends before its time. */
			left = (until - fsocket_now_ns() + 999999) / 1000000;
			if (left <= 0)
				break;
		}
		/* A worker that is alone learns here that another one has come. */
		rest = settle_all(false) ? look_every() : 10 * look_every();
		count = look_around(events, true, &away);
		if (count)
			break;
		/* Look less often the longer there was nothing to do. */
		look = away && look * 2 < rest ? look * 2 : rest;
	}
	if (count >= 0)
		errno = saved;
	saved = errno;
	fsocket_signals_unblock(&own);
	errno = saved;
	return count;
}

/* Fills fsocket_mine for the instance, and returns whether anything is in it. */
static bool find_mine(int epfd)
{
	unsigned int now = atomic_load(&version);

	if (fsocket_mine.epfd == epfd && fsocket_mine.version == now)
		return fsocket_mine.count;
	if (!fsocket_worker_hold())
		return false;
	fsocket_mine.epfd = epfd;
	fsocket_mine.version = now;
	fsocket_mine.count = 0;
	for (int i = 0; i < watches_end && fsocket_mine.count < MAX_MINE; i++)
		if (watches[i].group && watches[i].epfd == epfd)
			fsocket_mine.watches[fsocket_mine.count++] = &watches[i];
	if (fsocket_mine.count)
		fsocket_mine.late = late_of(fsocket_mine.watches[0]->group->route);
	fsocket_worker_let_go();
	return fsocket_mine.count;
}

bool fsocket_worker_wait(int epfd, struct epoll_event *events, int maxevents, int timeout,
			 const sigset_t *mask, int *count)
{
	bool active, away;

	if (fsocket_process_apart || !find_mine(epfd))
		return false;
	if (fsocket_device_confined()) {
		*count = mask ? real_pwait(epfd, events, maxevents, timeout, mask) :
				real_wait(epfd, events, maxevents, timeout);
		return true;
	}
	fsocket_pin_again();
	active = settle_all(!timeout);
	if (active && maxevents > 0 && events &&
	    fsocket_now_ms() - fsocket_mine.looked >= look_every()) {
		*count = look_around(events, false, &away);
		if (*count)
			return true;
	}
	if (!active)
		look_alone();
	if (!timeout || maxevents <= 0 || !fsocket_mine.claims) {
		stamp(true);
		*count = mask ? real_pwait(epfd, events, maxevents, timeout, mask) :
				real_wait(epfd, events, maxevents, timeout);
		stamp(false);
		return true;
	}
	/* Under load a connection is ready, so do not prepare for a wait yet. */
	*count = mask ? 0 : real_wait(epfd, events, maxevents, 0);
	/* More connections may wait where the last one came from. */
	if (!*count && fsocket_mine.stolen)
		*count = look_around(events, true, &away);
	fsocket_mine.stolen = false;
	if (!*count)
		*count = wait_looking(epfd, events, maxevents, timeout, mask);
	stamp(false);
	return true;
}

/* At exit, ask for no further connections to this process. */
__attribute__((destructor)) static void process_ends(void)
{
	fsocket_worker_confine(true);
}
