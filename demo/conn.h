/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Connections: their storage, what epoll watches them for, and the output that
 * the peer has not taken yet.
 */
#ifndef DEMO_CONN_H
#define DEMO_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http.h"

struct worker;

/* What becomes of a connection when its output has been sent. */
enum conn_after {
	AFTER_CONTINUE,		/* read the next request */
	AFTER_CLOSE,		/* close: everything sent to us has been read */
	AFTER_LINGER,		/* conn_linger(): more may be under way */
};

/* Anything that epoll reports: a connection, a listening socket, the signals. */
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

/* A connection for the descriptor, not watched yet; NULL when out of memory (fd closed). */
struct conn *conn_new(struct worker *w, int fd,
		      void (*ready)(struct worker *w, struct conn *c, uint32_t events));

/* Closes; the storage is reused only after this round of events, which may name it. */
void conn_close(struct worker *w, struct conn *c);

/* conn_close() because of a failure: counted, and explained in the debug log. */
void conn_fail(struct worker *w, struct conn *c, const char *doing, int error);

/* Watches for exactly these events; 0 for none, not even EPOLLHUP and EPOLLERR. */
void conn_watch(struct worker *w, struct conn *c, uint32_t interest);

/* Sends, keeping in c->out what the socket does not take. -1 with errno on failure. */
int conn_send(struct conn *c, const char *data, size_t len);

/* Sends more of c->out. -1 with errno on failure. */
int conn_flush(struct conn *c);

static inline bool conn_has_output(const struct conn *c)
{
	return c->out_end > 0;
}

/* Forgets output that will not be sent. */
void conn_drop_output(struct conn *c);

/*
 * The end of a connection whose client may still be sending: closing at once
 * would answer that data with a reset, and the client might lose our response.
 * So our direction ends, and the client's is read until it ends too.
 */
void conn_linger(struct worker *w, struct conn *c);

/* Not idle: there is something to finish before a stop. */
bool conn_busy(const struct conn *c);

#endif
