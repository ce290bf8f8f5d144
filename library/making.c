// SPDX-License-Identifier: GPL-2.0-only
/*
 * One thread of a process at a time makes a group, or leaves the table of descriptors. No thread
 * forks meanwhile, so a child has neither half a group nor a lock that nobody releases. All signals
 * are blocked, since a handler may call listen(), or leave it by siglongjmp().
 */
#include <pthread.h>
#include <signal.h>
#include <sys/single_threaded.h>

#include "backend.h"
#include "device.h"
#include "real.h"
#include "worker.h"

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static sigset_t makers_mask;
static bool masked;
/* The process that forks has other threads. */
static bool threaded;

void fsocket_making_begin(void)
{
	bool free = !fsocket_device_confined();
	sigset_t all, own;

	sigfillset(&all);
	if (free)
		pthread_sigmask(SIG_SETMASK, &all, &own);
	pthread_mutex_lock(&making);
	masked = free;
	if (free)
		makers_mask = own;
}

void fsocket_making_end(void)
{
	sigset_t own = makers_mask;
	bool unmask = masked;

	pthread_mutex_unlock(&making);
	if (unmask)
		pthread_sigmask(SIG_SETMASK, &own, NULL);
}

void fsocket_making_in_copy(void)
{
	pthread_mutex_init(&making, NULL);
}

static void before_fork(void)
{
	threaded = !__libc_single_threaded;
	/* The child could not ask: see imports.c. */
	if (threaded && fsocket_kernel_chosen())
		fsocket_imports_accept();
	fsocket_pin_lift();
	fsocket_making_begin();
}

static void in_child(void)
{
	if (threaded)
		fsocket_imports_settled();
	/* Another thread may have held this, and signals are blocked while this thread does. */
	fsocket_worker_held_in_child();
	fsocket_making_end();
}

void fsocket_making_at_start(void)
{
	pthread_atfork(before_fork, fsocket_making_end, in_child);
}
