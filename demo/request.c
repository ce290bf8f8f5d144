// SPDX-License-Identifier: GPL-2.0-only
#include "request.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool request_begun(const struct http_request *r)
{
	return r->state != HTTP_NEW && r->state != HTTP_BETWEEN;
}

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

size_t request_take(struct http_request *r, const char *data, size_t len)
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
