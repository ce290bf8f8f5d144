// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file decides where a worker of the kernel backend works: its CPU, and the member of the
 * group that is in its epoll instance.
 *
 * Workers come while others leave: at a reload of nginx, some of the new ones choose before and
 * some after an old one has left. So two may be left on one CPU, and none on another one. Then
 * one of the two moves, when it next waits or looks up.
 */
#include <poll.h>
#include <string.h>

#include "clock.h"
#include "worker.h"

/* The longest time of a handshake, in most cases. */
#define ALONE_MS	3000

void fsocket_place_enter(struct watch *w)
{
	int fd = member_fd(w);

	if (fd >= 0 && !w->ours)
		w->ours = !RAW4(SYS_epoll_ctl, w->epfd, EPOLL_CTL_ADD, fd, &w->event);
}

void fsocket_place_leave(struct watch *w)
{
	int fd = member_fd(w);

	if (w->all)
		fsocket_members_watch(w->group, w->epfd, EPOLL_CTL_DEL, NULL);
	else if (w->ours && fd >= 0)
		RAW4(SYS_epoll_ctl, w->epfd, EPOLL_CTL_DEL, fd, NULL);
	w->ours = false;
	w->all = false;
}

void fsocket_place_look(struct watch *w, bool there)
{
	long now = fsocket_now_ms();

	if (there) {
		w->active = true;
		w->alone_since = 0;
	} else if (w->active && !w->alone_since) {
		w->alone_since = now;
	} else if (w->active && now - w->alone_since >= ALONE_MS) {
		w->active = false;
		w->alone_since = 0;
	}
}

void fsocket_place_all(struct watch *w, bool all)
{
	bool ours = w->ours;

	if (w->all == all)
		return;
	if (all) {
		fsocket_members_watch(w->group, w->epfd, EPOLL_CTL_ADD, &w->event);
		w->all = true;
		return;
	}
	/* The kernel may have woken this worker alone for what waits there: see leave_for_another(). */
	if (w->event.events & EPOLLEXCLUSIVE && fsocket_members_readable(w->group, NULL))
		return;
	fsocket_place_leave(w);
	if (ours)
		fsocket_place_enter(w);
}

/* Returns the claim of w; NULL if it has none, or others have freed that. */
static struct claim *claim_of(const struct watch *w)
{
	struct claim *c = w->claim;

	return c && c->owner == w->owner ? c : NULL;
}

/* Returns the CPU on which this thread serves its other listeners; -1 if there is none. */
static int my_cpu(void)
{
	for (int i = 0; i < fsocket_mine.count; i++) {
		const struct claim *c = claim_of(fsocket_mine.watches[i]);
		int cpu = c ? atomic_load(&c->cpu) : -1;

		if (cpu >= 0 && cpu < GROUP_CPUS)
			return cpu;
	}
	return -1;
}

/* Stores the number of workers on each CPU, at each listener of this thread but that of except. */
static void count_workers(unsigned short *workers, const struct watch *except)
{
	memset(workers, 0, GROUP_CPUS * sizeof(*workers));
	for (int i = 0; i < fsocket_mine.count; i++) {
		const struct watch *w = fsocket_mine.watches[i];

		if (w != except && claim_of(w))
			fsocket_route_count(w->group->route, workers);
	}
}

/*
 * Leaves the member of w. Of the workers that wait for a socket with EPOLLEXCLUSIVE, the kernel wakes
 * one. If that is this one, the others do not know of a connection that it leaves there.
 */
static void leave_for_another(struct watch *w)
{
	struct pollfd member = { .fd = w->ours ? member_fd(w) : -1, .events = POLLIN };

	fsocket_place_leave(w);
	if (member.fd < 0 || RAW3(SYS_poll, &member, 1, 0) <= 0)
		return;
	w->left = 1 + member_of(w->claim);
	/* The next wait begins with a look. */
	fsocket_mine.looked = 0;
}

void fsocket_place_recall(struct watch *w, bool *timely)
{
	int member = w->left - 1;
	struct pollfd left = { .fd = descriptor_of(w->group, member), .events = POLLIN };

	if (member < 0)
		return;
	if (left.fd < 0 || RAW3(SYS_poll, &left, 1, 0) <= 0)
		w->left = 0;
	else
		timely[member] = false;
}

/* Gives w one of the CPUs; that of its thread's other listeners, if there is one. */
static void take(struct watch *w, cpu_set_t *allowed)
{
	unsigned short workers[GROUP_CPUS];
	int mine = my_cpu();

	if (mine >= 0) {
		CPU_ZERO(allowed);
		CPU_SET(mine, allowed);
	}
	leave_for_another(w);
	atomic_store(&w->claim->looks, false);
	count_workers(workers, w);
	if (!fsocket_route_choose(w->group, w->claim, allowed, workers))
		return;
	fsocket_pin(w->claim->cpu);
	fsocket_place_enter(w);
	if (w->ours)
		fsocket_route_ready(w->group, w->claim);
}

void fsocket_place_take(struct watch *w)
{
	cpu_set_t allowed;

	fsocket_pin_allowed(&allowed);
	take(w, &allowed);
}

/*
 * Returns a CPU that has, even with this worker, fewer workers than mine, and pins the thread there;
 * -1 if there is none. A worker counts once for each of its listeners. Each move makes the sum of
 * the squares of these numbers smaller, so workers come to rest.
 */
static int better_cpu(int mine)
{
	unsigned short workers[GROUP_CPUS];
	int own = 0, cpu;
	cpu_set_t allowed;

	for (int i = 0; i < fsocket_mine.count; i++) {
		const struct claim *c = claim_of(fsocket_mine.watches[i]);

		/* A listener that has no other worker may have no CPU here. */
		own += c && c->cpu == mine;
	}
	count_workers(workers, NULL);
	if (workers[mine] <= own)
		return -1;
	fsocket_pin_allowed(&allowed);
	/* What the program may use was read when the worker was pinned first, and may be less now. */
	for (;;) {
		cpu = fsocket_route_fewest(workers, &allowed);
		if (cpu < 0 || workers[mine] - workers[cpu] <= own)
			return -1;
		if (fsocket_pin(cpu))
			return cpu;
		CPU_CLR(cpu, &allowed);
	}
}

/* Withdraws all claims of this thread. Returns false if one has to stay: the others return to it. */
static bool withdraw_all(void)
{
	for (int i = 0; i < fsocket_mine.count; i++) {
		struct watch *w = fsocket_mine.watches[i];
		struct claim *c = claim_of(w);

		if (c && c->cpu >= 0 && !fsocket_route_withdraw(w->group, c))
			return false;
	}
	return true;
}

void fsocket_place_spread(void)
{
	int mine = my_cpu(), cpu = mine < 0 ? -1 : better_cpu(mine);
	cpu_set_t two;

	if (cpu < 0)
		return;
	if (!withdraw_all())
		fsocket_pin(mine);
	for (int i = 0; i < fsocket_mine.count; i++) {
		struct watch *w = fsocket_mine.watches[i];

		if (!claim_of(w) || !w->active || w->alone_since || w->claim->ready)
			continue;
		/* Another worker may have moved there meanwhile. */
		CPU_ZERO(&two);
		CPU_SET(mine, &two);
		CPU_SET(cpu, &two);
		take(w, &two);
	}
}
