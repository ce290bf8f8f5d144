// SPDX-License-Identifier: GPL-2.0-only
/*
 * One thread of a process at a time makes a group, or leaves the table of descriptors. No thread
 * forks meanwhile, so a child has neither half a group nor a lock that nobody releases. All signals
 * are blocked, since a handler may call listen(), or leave it by siglongjmp().
 */
#include <pthread.h>
#include <sys/single_threaded.h>

#include "backend.h"
#include "device.h"
#include "signals.h"
#include "worker.h"

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static struct fsocket_mask makers_mask;
/* The process that forks has other threads. */
static bool threaded;

bool fsocket_child_of_threads;

void fsocket_making_begin(void)
{
	struct fsocket_mask mask = fsocket_mask_all(!fsocket_device_confined());

	pthread_mutex_lock(&making);
	makers_mask = mask;
}

void fsocket_making_end(void)
{
	struct fsocket_mask mask = makers_mask;

	pthread_mutex_unlock(&making);
	fsocket_mask_back(&mask);
}

void fsocket_making_in_copy(void)
{
	pthread_mutex_init(&making, NULL);
	fsocket_worker_held_in_child();
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
	fsocket_child_of_threads |= threaded;
	/* Another thread may have held this, and signals are blocked while this thread does. */
	fsocket_worker_held_in_child();
	fsocket_making_end();
}

void fsocket_making_at_start(void)
{
	pthread_atfork(before_fork, fsocket_making_end, in_child);
}
