// SPDX-License-Identifier: GPL-2.0-only
#include "http.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn.h"
#include "request.h"

/* A body of 64 bytes: the original project was measured with a file of this size. */
#define BODY "The demo server answers every request with these sixty-four b.\r\n"
_Static_assert(sizeof(BODY) - 1 == 64, "Content-Length says 64");

#define HEAD(version, connection)			\
	version " 200 OK\r\n"				\
	"Content-Type: text/plain\r\n"			\
	"Content-Length: 64\r\n"			\
	"Connection: " connection "\r\n\r\n"

struct response {
	const char *text;
	size_t len, head_len;
};

#define RESPONSE(head) { head BODY, sizeof(head BODY) - 1, sizeof(head) - 1 }

static const struct response response_single = RESPONSE(HEAD("HTTP/1.0", "close"));
static const struct response response_keep = RESPONSE(HEAD("HTTP/1.1", "keep-alive"));
static const struct response response_last = RESPONSE(HEAD("HTTP/1.1", "close"));

#define BAD_GATEWAY_BODY "The backend gave no answer.\r\n"
_Static_assert(sizeof(BAD_GATEWAY_BODY) - 1 == 29, "Content-Length says 29");

static const char bad_gateway[] =
	"HTTP/1.0 502 Bad Gateway\r\n"
	"Content-Type: text/plain\r\n"
	"Content-Length: 29\r\n"
	"Connection: close\r\n\r\n"
	BAD_GATEWAY_BODY;

/* Decides what to do next when output has been sent or has to wait. */
static void settle(struct worker *w, struct conn *c)
{
	if (conn_has_output(c)) {
		/* Read no further request until the client has taken its answers. */
		conn_watch(w, c, EPOLLOUT);
		return;
	}
	stats_add(&w->stats->responses, c->owed);
	c->owed = 0;
	switch (c->after) {
	case AFTER_CONTINUE:
		conn_watch(w, c, EPOLLIN);
		break;
	case AFTER_CLOSE:
		conn_close(w, c);
		break;
	case AFTER_LINGER:
		conn_linger(w, c);
		break;
	}
}

/* Queues the answer to c->request in the worker's output batch. */
static void respond(struct worker *w, struct conn *c, bool keep, size_t *batched)
{
	const struct response *response = &response_single;
	size_t len;

	if (w->opt->keepalive)
		response = keep ? &response_keep : &response_last;
	len = c->request.is_head ? response->head_len : response->len;
	memcpy(w->out + *batched, response->text, len);
	*batched += len;
	c->owed++;
	worker_count(w, requests);
}

/*
 * Answers every request that ends in w->in[0…len); answers to pipelined requests
 * leave in as few segments as fit.
 */
static void answer(struct worker *w, struct conn *c, size_t len)
{
	struct http_request *r = &c->request;
	size_t used = 0, batched = 0;

	for (;;) {
		bool keep;

		used += request_take(r, w->in + used, len - used);
		if (r->state != HTTP_DONE)
			break;
		keep = w->opt->keepalive && !r->close && !r->unframed && !w->stopping;
		respond(w, c, keep, &batched);
		if (!keep) {
			/* close() sends no reset if everything from the client has been read. */
			c->after = AFTER_CLOSE;
			if (r->unframed || used < len || len == sizeof(w->in))
				c->after = AFTER_LINGER;
			break;
		}
		memset(r, 0, sizeof(*r));
		r->state = HTTP_BETWEEN;
		/* No response is longer than this one. */
		if (batched + response_keep.len > sizeof(w->out)) {
			if (conn_send(c, w->out, batched)) {
				conn_fail(w, c, "send", errno);
				return;
			}
			batched = 0;
		}
	}
	if (batched && conn_send(c, w->out, batched))
		conn_fail(w, c, "send", errno);
	else if (c->owed)
		settle(w, c);
}

void http_ready(struct worker *w, struct conn *c, uint32_t events)
{
	ssize_t n;

	(void)events;
	if (conn_has_output(c)) {
		if (conn_flush(c))
			conn_fail(w, c, "send", errno);
		else
			settle(w, c);
		return;
	}

	n = recv(c->fd, w->in, sizeof(w->in), 0);
	if (n > 0) {
		answer(w, c, n);
	} else if (n < 0) {
		if (errno != EAGAIN)
			conn_fail(w, c, "recv", errno);
	} else if (request_begun(&c->request)) {
		/* The client has ended its direction: answer whatever has arrived. */
		size_t batched = 0;

		respond(w, c, false, &batched);
		c->after = AFTER_CLOSE;
		if (conn_send(c, w->out, batched))
			conn_fail(w, c, "send", errno);
		else
			settle(w, c);
	} else {
		conn_close(w, c);
	}
}

void http_bad_gateway(struct worker *w, struct conn *c)
{
	worker_count(w, errors);
	/* The buffer of a new socket takes all of it, unless the client is gone. */
	if (conn_send(c, bad_gateway, sizeof(bad_gateway) - 1) || conn_has_output(c))
		conn_close(w, c);
	else
		conn_linger(w, c);
}
