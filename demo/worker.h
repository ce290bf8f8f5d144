/* SPDX-License-Identifier: GPL-2.0-only */
/* A worker: one process, one epoll instance, any number of connections. */
#ifndef DEMO_WORKER_H
#define DEMO_WORKER_H

#include <stdbool.h>

#include "conn.h"
#include "options.h"
#include "stats.h"

#define CONNS_PER_CHUNK 256

/* Storage of connections is allocated in chunks, reused, and never freed. */
struct conn_chunk {
	struct conn_chunk *next;
	struct conn conns[CONNS_PER_CHUNK];
};

struct worker {
	int index;
	int epoll;
	const struct options *opt;
	struct stats *stats;
	bool stopping;
	int next_backend;

	struct conn *listeners;		/* opt->listen_count of them */
	bool paused;			/* out of descriptors: not accepting */

	struct conn_chunk *chunks;
	struct conn *free_conns;
	struct conn *closed_conns;	/* free after this round of events */

	/* All connections use these buffers, which therefore stay in the cache. */
	char in[64 << 10];
	char out[16 << 10];
};

#define worker_count(w, counter) stats_add(&(w)->stats->counter, 1)

/*
 * Serves the listening descriptors until SIGTERM or SIGINT, which must be
 * blocked. Writes a byte to ready_fd and closes it once they are being watched.
 */
void worker_run(const struct options *opt, int index, const int *listen_fds,
		struct stats *stats, int ready_fd);

#endif
