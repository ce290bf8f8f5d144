// SPDX-License-Identifier: GPL-2.0-only
/*
 * The thread that changes the watches of worker.c, and the signals that it has blocked
 * itself. Meanwhile all are blocked: a signal handler may close the listener or the
 * instance, as Apache's workers do at a reload. A program that has confined itself may
 * not allow the library to block them.
 */
#include <pthread.h>
#include <time.h>

#include "device.h"
#include "process.h"
#include "real.h"
#include "signals.h"
#include "worker.h"

static _Atomic(const void *) holder;
static struct fsocket_mask holders_mask;

bool fsocket_worker_hold(void)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	const void *nobody = NULL;
	bool free = !fsocket_device_confined();
	struct fsocket_mask mask;

	/* The holder may be another thread of the process of which this one is a copy. */
	if (atomic_load(&holder))
		fsocket_process_borrowed();
	if (atomic_load(&holder) == &fsocket_mine)
		return false;
	mask = fsocket_mask_all(free);
	while (!atomic_compare_exchange_weak(&holder, &nobody, &fsocket_mine)) {
		nobody = NULL;
		if (free)
			/* sched_yield() would not let a holder of a lower priority run. */
			RAW4(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	holders_mask = mask;
	return true;
}

void fsocket_worker_let_go(void)
{
	struct fsocket_mask mask = holders_mask;

	atomic_store(&holder, NULL);
	fsocket_mask_back(&mask);
}

void fsocket_worker_held_in_child(void)
{
	atomic_store(&holder, NULL);
}

int fsocket_worker_blocked(int epfd, struct epoll_event *events, int maxevents, int timeout,
			   const sigset_t *mask, sigset_t *own)
{
	int count;
	REAL(epoll_pwait);

	pthread_cleanup_push(fsocket_signals_unblock, own);
	count = real(epfd, events, maxevents, timeout, mask);
	pthread_cleanup_pop(false);
	return count;
}
