/* SPDX-License-Identifier: GPL-2.0-only */
/* Counters of each worker, which the parent can read. */
#ifndef DEMO_STATS_H
#define DEMO_STATS_H

#include <stdint.h>

struct stats {
	uint64_t accepted;	/* connections accepted */
	uint64_t requests;	/* requests received; proxy: connections that sent anything */
	uint64_t responses;	/* answers given to the kernel whole; proxy: forwarded whole */
	uint64_t errors;	/* resets, failed accepts, failing backends, lack of resources */
};

/*
 * Each worker has a page of its own. Only the worker writes to it, so counting moves no
 * cache line between cores, and it is the first to touch it, so the page is on the
 * worker's memory node.
 */
union stats_page {
	struct stats stats;
	char page[4096];
};

/* Adds to a counter that only this process writes, so without an atomic add. */
static inline void stats_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* Allocates a page for each worker, shared with processes forked later. */
union stats_page *stats_create(int workers);

/* `stats: …`: the rates since the last call of all workers together, then of each. */
void stats_say_rates(void);

/* `Request/s …`: the answers per second since the last call, as the original prints it. */
void stats_say_requests(void);

/* `total: …`: the sums since the start. */
void stats_say_total(void);

#endif
