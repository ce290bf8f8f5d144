/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The library blocks all signals where a signal handler must not run, and then puts the thread's
 * own mask back.
 */
#ifndef FSOCKET_SIGNALS_H
#define FSOCKET_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* Stores in *own the mask that the thread has had. */
static inline void fsocket_signals_block(sigset_t *own)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, own);
}

/*
 * Puts the mask back. A cleanup handler of pthread_cleanup_push(), too: where a thread is cancelled
 * while all signals are blocked, the program's handlers shall run with the mask that it has set.
 */
static inline void fsocket_signals_unblock(void *own)
{
	pthread_sigmask(SIG_SETMASK, own, NULL);
}

/*
 * What the holder of a lock has done to its signals. It is stored beside the lock, since a child gives
 * up what its parent has taken. A program that has restricted its system calls keeps its mask.
 */
struct fsocket_mask {
	sigset_t own;
	bool blocked;
};

static inline struct fsocket_mask fsocket_mask_all(bool allowed)
{
	struct fsocket_mask m = { .blocked = allowed };

	if (allowed)
		fsocket_signals_block(&m.own);
	return m;
}

static inline void fsocket_mask_back(struct fsocket_mask *m)
{
	if (m->blocked)
		fsocket_signals_unblock(&m->own);
}

#endif
