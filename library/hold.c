// SPDX-License-Identifier: GPL-2.0-only
/*
 * The thread that changes the watches of worker.c, and the signals that it has blocked
 * itself. Meanwhile all are blocked: a signal handler may close the listener or the
 * instance, as Apache's workers do at a reload. A program that has confined itself may
 * not allow the library to block them.
 */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "device.h"
#include "process.h"
#include "real.h"
#include "worker.h"

static _Atomic(const void *) holder;
static sigset_t holders_mask;
static bool masked;

bool fsocket_worker_hold(void)
{
	const struct timespec pause = { .tv_nsec = 20000 };
	const void *nobody = NULL;
	bool free = !fsocket_device_confined();
	sigset_t all, own;

	/* The holder may be another thread of the process of which this one is a copy. */
	if (atomic_load(&holder))
		fsocket_process_borrowed();
	if (atomic_load(&holder) == &fsocket_mine)
		return false;
	sigfillset(&all);
	if (free)
		pthread_sigmask(SIG_SETMASK, &all, &own);
	while (!atomic_compare_exchange_weak(&holder, &nobody, &fsocket_mine)) {
		nobody = NULL;
		if (free)
			/* sched_yield() would not let a holder of a lower priority run. */
			RAW4(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	masked = free;
	if (free)
		holders_mask = own;
	return true;
}

void fsocket_worker_let_go(void)
{
	sigset_t own = holders_mask;
	bool unmask = masked;

	atomic_store(&holder, NULL);
	if (unmask)
		pthread_sigmask(SIG_SETMASK, &own, NULL);
}

void fsocket_worker_held_in_child(void)
{
	atomic_store(&holder, NULL);
}

void fsocket_unblock(void *own)
{
	pthread_sigmask(SIG_SETMASK, own, NULL);
}

int fsocket_worker_blocked(int epfd, struct epoll_event *events, int maxevents, int timeout,
			   const sigset_t *mask, sigset_t *own)
{
	int count;
	REAL(epoll_pwait);

	pthread_cleanup_push(fsocket_unblock, own);
	count = real(epfd, events, maxevents, timeout, mask);
	pthread_cleanup_pop(false);
	return count;
}
