// SPDX-License-Identifier: GPL-2.0-only
#include "http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn.h"

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

static void keep_byte(struct http_request *r, char byte)
{
	if (byte != '\r' && r->line_len < sizeof(r->line) - 1)
		r->line[r->line_len++] = byte;
}

static void end_unframed(struct http_request *r)
{
	r->unframed = true;
	r->state = HTTP_DONE;
}

static void end_request_line(struct http_request *r)
{
	static const uint64_t http_1 = 0x485454502f312eULL;	/* "HTTP/1." */

	if (r->tail >> 8 != http_1) {
		end_unframed(r);
		return;
	}
	r->is_head = r->line_len > 5 && !memcmp(r->line, "HEAD ", 5);
	r->close = (r->tail & 0xff) == '0';
	r->line_len = 0;
	r->state = HTTP_HEADER;
}

/* Returns the value if the line is the header @name, else NULL. */
static const char *header_value(const char *line, const char *name)
{
	size_t len = strlen(name);

	if (strncasecmp(line, name, len) || line[len] != ':')
		return NULL;
	return line + len + 1 + strspn(line + len + 1, " \t");
}

static void end_header(struct http_request *r)
{
	const char *value;

	r->line[r->line_len] = '\0';
	if (!r->line_len) {
		if (r->unframed || !r->body_left)
			r->state = HTTP_DONE;
		else
			r->state = HTTP_BODY;
		return;
	}
	if ((value = header_value(r->line, "Content-Length"))) {
		size_t digits = strspn(value, "0123456789");

		if (!digits || digits > 18 || value[digits + strspn(value + digits, " \t")])
			r->unframed = true;
		else
			r->body_left = strtoull(value, NULL, 10);
	} else if ((value = header_value(r->line, "Connection"))) {
		if (strcasestr(value, "close"))
			r->close = true;
		else if (strcasestr(value, "keep-alive"))
			r->close = false;
	} else if (header_value(r->line, "Transfer-Encoding") ||
		   header_value(r->line, "Expect")) {
		/* Answer without reading a chunked body, or one that awaits "100 Continue". */
		r->unframed = true;
	}
	r->line_len = 0;
}

static void take_byte(struct http_request *r, char byte)
{
	switch (r->state) {
	case HTTP_BETWEEN:
		/* Old clients send an empty line after a body. */
		if (byte == '\r' || byte == '\n')
			return;
		/* fall through */
	case HTTP_NEW:
		r->state = HTTP_METHOD;
		/* fall through */
	case HTTP_METHOD:
		if (byte == ' ' && r->line_len)
			r->state = HTTP_TARGET;
		else if (byte < 'A' || byte > 'Z')
			end_unframed(r);
		keep_byte(r, byte);
		return;
	case HTTP_TARGET:
		if (byte == '\n') {
			end_request_line(r);
		} else if (byte != '\r') {
			r->tail = r->tail << 8 | (unsigned char)byte;
			keep_byte(r, byte);
		}
		return;
	default:
		if (byte == '\n')
			end_header(r);
		else
			keep_byte(r, byte);
	}
}

/* Reads up to the end of the request, and returns the number of bytes read. */
static size_t take(struct http_request *r, const char *data, size_t len)
{
	size_t used = 0;

	while (used < len && r->state != HTTP_DONE) {
		if (r->state == HTTP_BODY) {
			size_t part = len - used;

			if (part > r->body_left)
				part = r->body_left;
			used += part;
			r->body_left -= part;
			if (!r->body_left)
				r->state = HTTP_DONE;
		} else {
			take_byte(r, data[used++]);
		}
	}
	return used;
}

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

		used += take(r, w->in + used, len - used);
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
