/* SPDX-License-Identifier: GPL-2.0-only */
/* How far an HTTP request has been read, which may arrive in any pieces. */
#ifndef DEMO_REQUEST_H
#define DEMO_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

enum http_state {
	HTTP_NEW,		/* nothing has arrived yet */
	HTTP_BETWEEN,		/* between two requests of a connection */
	HTTP_METHOD,
	HTTP_TARGET,		/* the rest of the request line */
	HTTP_HEADER,
	HTTP_BODY,
	HTTP_DONE,
};

/* How far a request has been read, however small the pieces that it comes in. */
struct http_request {
	enum http_state state;
	bool is_head;		/* wants an answer without body */
	bool close;		/* the client does not want to keep the connection */
	bool unframed;		/* not HTTP, or its end is not announced by a length */
	uint8_t line_len;
	char line[64];		/* the beginning of the current line: all that matters */
	uint64_t tail;		/* the last 8 bytes of the request line */
	uint64_t body_left;
};

/* Returns whether a part of a request has arrived, but not all of it. */
static inline bool request_begun(const struct http_request *r)
{
	return r->state != HTTP_NEW && r->state != HTTP_BETWEEN;
}

#endif
