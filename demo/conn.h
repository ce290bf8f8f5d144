/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Connections: their storage, the events that epoll watches for, and the output that
 * the peer has not taken yet.
 */
#ifndef DEMO_CONN_H
#define DEMO_CONN_H

#include "state.h"

/* Returns a connection for fd, not watched yet, or NULL without memory (fd is closed then). */
struct conn *conn_new(struct worker *w, int fd,
		      void (*ready)(struct worker *w, struct conn *c, uint32_t events));

/*
 * Closes the connection. Its storage is reused only after this round of events, in which a
 * later event may still point to it.
 */
void conn_close(struct worker *w, struct conn *c);

/* Does conn_close() after a failure, which it counts and writes to the debug log. */
void conn_fail(struct worker *w, struct conn *c, const char *doing, int error);

/* Watches for exactly these events; with 0 not even for EPOLLHUP and EPOLLERR. */
void conn_watch(struct worker *w, struct conn *c, uint32_t interest);

/* Sends data; c->out keeps the part that the socket does not take. -1 and errno on failure. */
int conn_send(struct conn *c, const char *data, size_t len);

/* Sends more of c->out. -1 with errno on failure. */
int conn_flush(struct conn *c);

static inline bool conn_has_output(const struct conn *c)
{
	return c->out_end > 0;
}

/* Frees output that will not be sent. */
void conn_drop_output(struct conn *c);

/*
 * Ends a connection whose client may still be sending. close() would answer that data
 * with a reset, and the client might lose the response. So this function shuts down the
 * sending direction, and the worker reads until the client ends the other one.
 */
void conn_linger(struct worker *w, struct conn *c);

/* Returns whether the connection has something to finish before the worker stops. */
bool conn_busy(const struct conn *c);

#endif
