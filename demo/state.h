/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state of a worker process: its epoll instance, its listeners, and any number of
 * connections.
 */
#ifndef DEMO_STATE_H
#define DEMO_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "options.h"
#include "request.h"
#include "stats.h"

struct worker;

/* The next step of a connection when its output has been sent. */
enum conn_after {
	AFTER_CONTINUE,		/* read the next request */
	AFTER_CLOSE,		/* close: everything sent to us has been read */
	AFTER_LINGER,		/* conn_linger(): the client may still be sending */
};

/* A file descriptor in the epoll set: a connection, a listening socket, or the signals. */
struct conn {
	void (*ready)(struct worker *w, struct conn *c, uint32_t events);
	int fd;			/* -1: closed */
	uint32_t interest;	/* epoll events asked for; 0: not in the epoll set */
	struct conn *next;	/* in the worker's list of free or of closed ones */

	char *out;		/* malloc()ed output that the socket did not take */
	size_t out_start, out_end;

	/* Server mode */
	struct http_request request;
	unsigned int owed;	/* responses queued, not all sent */
	enum conn_after after;

	size_t linger_left;	/* bytes that a lingering connection may still send */

	/* Proxy mode */
	struct conn *peer;	/* the other side */
	bool is_backend;
	bool read_ended;	/* this side has sent its end of file */
	bool write_broken;	/* this side takes no data any more */
	bool received;		/* this side has sent something */
};

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

#endif
