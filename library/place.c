// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where a worker of the kernel backend works: its CPU, and the member of the group that is in
 * its epoll instance.
 *
 * Workers come while others leave: at a reload of nginx, some of the new ones choose before and
 * some after an old one has left. So two may be left on one CPU, and none on another one. Then
 * one of the two moves, when it next waits or looks up.
 */
#include "worker.h"

void fsocket_place_enter(struct watch *w)
{
	int fd = member_fd(w);

	if (fd >= 0 && !w->ours)
		w->ours = !RAW4(SYS_epoll_ctl, w->epfd, EPOLL_CTL_ADD, fd, &w->event);
}

void fsocket_place_leave(struct watch *w)
{
	int fd = member_fd(w);

	if (w->ours && fd >= 0)
		RAW4(SYS_epoll_ctl, w->epfd, EPOLL_CTL_DEL, fd, NULL);
	w->ours = false;
}

/* Returns the CPU on which this thread serves its other listeners; -1 if there is none. */
static int my_cpu(void)
{
	for (int i = 0; i < fsocket_mine.count; i++) {
		const struct claim *c = fsocket_mine.watches[i]->claim;
		int cpu = c ? atomic_load(&c->cpu) : -1;

		if (cpu >= 0)
			return cpu;
	}
	return -1;
}

void fsocket_place_take(struct watch *w)
{
	int mine = my_cpu();
	cpu_set_t allowed;

	fsocket_pin_allowed(&allowed);
	if (mine >= 0 && mine < CPU_SETSIZE) {
		CPU_ZERO(&allowed);
		CPU_SET(mine, &allowed);
	}
	fsocket_place_leave(w);
	atomic_store(&w->claim->looks, false);
	if (!fsocket_route_choose(w->group, w->claim, &allowed))
		return;
	fsocket_pin(w->claim->cpu);
	fsocket_place_enter(w);
	if (w->ours)
		fsocket_route_ready(w->group, w->claim);
	w->generation = w->group->route->generation;
}

/* Returns the number of workers on the CPU, at each of the listeners of this thread. */
static int workers_on(int cpu)
{
	int count = 0;

	for (int i = 0; i < fsocket_mine.count; i++)
		if (fsocket_mine.watches[i]->claim)
			count += fsocket_route_workers(fsocket_mine.watches[i]->group->route, cpu);
	return count;
}

/*
 * Returns whether a CPU that this worker may use has, even with this worker, fewer workers than its
 * own. Each move makes the sum of the squares of these numbers smaller, so workers come to rest.
 */
static bool crowded(void)
{
	int mine = my_cpu(), here, claims = 0;
	cpu_set_t allowed;

	for (int i = 0; i < fsocket_mine.count; i++)
		claims += !!fsocket_mine.watches[i]->claim;
	here = mine >= 0 ? workers_on(mine) : 0;
	if (here <= claims)
		return false;
	fsocket_pin_allowed(&allowed);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && here - workers_on(cpu) > claims)
			return true;
	return false;
}

void fsocket_place_spread(void)
{
	if (!crowded())
		return;
	/* settle() has each of them take a place again. */
	for (int i = 0; i < fsocket_mine.count; i++) {
		struct watch *w = fsocket_mine.watches[i];

		if (w->claim && w->claim->owner == w->owner)
			fsocket_route_withdraw(w->group, w->claim);
	}
}
