/* SPDX-License-Identifier: GPL-2.0-only */
/* What each worker has done, visible to the parent. */
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
 * A page for each worker: written by it alone and first touched by it, so it
 * lies on the worker's own memory node and counting never bounces a cache line.
 */
union stats_page {
	struct stats stats;
	char page[4096];
};

/* Counts from the one writer. Not a read-modify-write across cores: no lock prefix. */
static inline void stats_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/* A page for each of that many workers, shared with processes forked later. */
union stats_page *stats_create(int workers);

/* `stats: …`: the rates since the last call of all workers together, then of each. */
void stats_say_rates(void);

/* `Request/s …`: the answers per second since the last call, as the original prints it. */
void stats_say_requests(void);

/* `total: …`: the sums since the start. */
void stats_say_total(void);

#endif
