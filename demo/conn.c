// SPDX-License-Identifier: GPL-2.0-only
#include "conn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"

/* A client that sends more bytes than this after its last answer is disconnected. */
#define LINGER_BYTES (64 << 20)

static bool grow(struct worker *w)
{
	struct conn_chunk *chunk = calloc(1, sizeof(*chunk));

	if (!chunk)
		return false;
	chunk->next = w->chunks;
	w->chunks = chunk;
	for (int i = 0; i < CONNS_PER_CHUNK; i++) {
		chunk->conns[i].fd = -1;
		chunk->conns[i].next = w->free_conns;
		w->free_conns = &chunk->conns[i];
	}
	return true;
}

struct conn *conn_new(struct worker *w, int fd,
		      void (*ready)(struct worker *w, struct conn *c, uint32_t events))
{
	struct conn *c;

	if (!w->free_conns && !grow(w)) {
		worker_count(w, errors);
		warn("worker %d: no memory for another connection: it is closed", w->index);
		close(fd);
		return NULL;
	}
	c = w->free_conns;
	w->free_conns = c->next;
	memset(c, 0, sizeof(*c));
	c->fd = fd;
	c->ready = ready;
	return c;
}

void conn_close(struct worker *w, struct conn *c)
{
	conn_drop_output(c);
	close(c->fd);
	c->fd = -1;
	c->next = w->closed_conns;
	w->closed_conns = c;
}

void conn_fail(struct worker *w, struct conn *c, const char *doing, int error)
{
	worker_count(w, errors);
	debug("worker %d: fd %d: %s: %s", w->index, c->fd, doing, strerror(error));
	conn_close(w, c);
}

void conn_watch(struct worker *w, struct conn *c, uint32_t interest)
{
	struct epoll_event event = { .events = interest, .data.ptr = c };
	int op = EPOLL_CTL_MOD;

	if (interest == c->interest)
		return;
	if (!c->interest)
		op = EPOLL_CTL_ADD;
	else if (!interest)
		op = EPOLL_CTL_DEL;
	/* epoll_ctl() fails only without memory or above max_user_watches; then nothing works. */
	if (epoll_ctl(w->epoll, op, c->fd, &event))
		fail(1, "worker %d: epoll_ctl: %s", w->index, strerror(errno));
	c->interest = interest;
}

int conn_flush(struct conn *c)
{
	ssize_t n = send(c->fd, c->out + c->out_start, c->out_end - c->out_start, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	c->out_start += n;
	if (c->out_start == c->out_end)
		conn_drop_output(c);
	return 0;
}

int conn_send(struct conn *c, const char *data, size_t len)
{
	char *out;

	if (!conn_has_output(c)) {
		ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);

		if (n == (ssize_t)len)
			return 0;
		if (n < 0 && errno != EAGAIN)
			return -1;
		if (n > 0) {
			data += n;
			len -= n;
		}
	}
	out = realloc(c->out, c->out_end + len);
	if (!out)
		return -1;
	memcpy(out + c->out_end, data, len);
	c->out = out;
	c->out_end += len;
	return 0;
}

void conn_drop_output(struct conn *c)
{
	free(c->out);
	c->out = NULL;
	c->out_start = c->out_end = 0;
}

static void linger_ready(struct worker *w, struct conn *c, uint32_t events)
{
	ssize_t n = recv(c->fd, w->in, sizeof(w->in), 0);

	(void)events;
	if (n < 0 && errno == EAGAIN)
		return;
	/* The answer has been sent, so a reset is no error: the client just hangs up. */
	if (n <= 0 || (size_t)n >= c->linger_left) {
		conn_close(w, c);
		return;
	}
	c->linger_left -= n;
}

void conn_linger(struct worker *w, struct conn *c)
{
	if (shutdown(c->fd, SHUT_WR)) {
		conn_close(w, c);
		return;
	}
	c->ready = linger_ready;
	c->linger_left = LINGER_BYTES;
	conn_watch(w, c, EPOLLIN);
}

bool conn_busy(const struct conn *c)
{
	return c->fd >= 0 && (conn_has_output(c) || c->peer || c->linger_left ||
			      request_begun(&c->request));
}
