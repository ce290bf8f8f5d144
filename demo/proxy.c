// SPDX-License-Identifier: GPL-2.0-only
/*
 * The proxy forwards data from one side to the other at once. Data that the receiving
 * side does not take is kept in its `out`, and while there is any, the proxy does not
 * read from the sender. So TCP's flow control stops the sender, and memory is bounded.
 */
#include "proxy.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn.h"
#include "http.h"
#include "log.h"

static void watch_side(struct worker *w, struct conn *c)
{
	uint32_t interest = 0;

	if (!c->read_ended && !conn_has_output(c->peer))
		interest |= EPOLLIN;
	if (conn_has_output(c))
		interest |= EPOLLOUT;
	conn_watch(w, c, interest);
}

/* Closes the connection to the backend and answers the client with 502. */
static void refuse(struct worker *w, struct conn *client, int error)
{
	struct conn *backend = client->peer;

	debug("worker %d: fd %d: backend: %s", w->index, client->fd, strerror(error));
	if (backend)
		conn_close(w, backend);
	client->peer = NULL;
	http_bad_gateway(w, client);
}

/*
 * Ends both sides after a failure. The client gets a reset, since a client that reads an
 * answer until the connection ends would take a normal end for the end of the answer.
 */
static void abort_both(struct worker *w, struct conn *c, const char *doing)
{
	struct conn *client = c->is_backend ? c->peer : c;
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	int error = errno;

	setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	conn_close(w, c->peer);
	conn_fail(w, c, doing, error);
}

static void end_both(struct worker *w, struct conn *c)
{
	struct conn *client = c->is_backend ? c->peer : c;
	struct conn *backend = client->peer;

	if (backend->received && !backend->write_broken)
		worker_count(w, responses);
	else if (client->received)
		worker_count(w, errors);
	conn_close(w, client);
	conn_close(w, backend);
}

/* Ends the direction to @to once @from has ended it and everything is forwarded. */
static void forward_end(struct conn *from, struct conn *to)
{
	if (from->read_ended && !conn_has_output(to) && !to->write_broken)
		shutdown(to->fd, SHUT_WR);
}

/*
 * Handles a side that takes no more data. A backend may still answer, so the proxy goes
 * on reading from it; a client that takes no more data is gone. Returns 0 if the pair of
 * connections remains.
 */
static int write_failed(struct worker *w, struct conn *to)
{
	if (!to->is_backend) {
		abort_both(w, to, "send to the client");
		return -1;
	}
	debug("worker %d: fd %d: send to the backend: %s", w->index, to->fd, strerror(errno));
	to->write_broken = true;
	conn_drop_output(to);
	return 0;
}

/* Sends data that `to` did not take before. Returns 0 if the pair remains. */
static int drain(struct worker *w, struct conn *to)
{
	if (conn_flush(to))
		return write_failed(w, to);
	forward_end(to->peer, to);
	return 0;
}

/* Forwards data that has arrived from one side. Returns 0 if the pair remains. */
static int pump(struct worker *w, struct conn *from)
{
	struct conn *to = from->peer;
	ssize_t n = recv(from->fd, w->in, sizeof(w->in), 0);

	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0) {
		if (from->is_backend && !from->received) {
			refuse(w, to, errno);
			return -1;
		}
		abort_both(w, from, from->is_backend ? "recv from the backend" :
			   "recv from the client");
		return -1;
	}
	if (n == 0) {
		from->read_ended = true;
		forward_end(from, to);
		return 0;
	}
	if (!from->received && !from->is_backend)
		worker_count(w, requests);
	from->received = true;
	if (!to->write_broken && conn_send(to, w->in, n))
		return write_failed(w, to);
	return 0;
}

static void proxy_ready(struct worker *w, struct conn *c, uint32_t events)
{
	struct conn *peer = c->peer;

	if (conn_has_output(c) && (events & ~EPOLLIN) && drain(w, c))
		return;
	if ((c->interest & EPOLLIN) && (events & ~EPOLLOUT) && pump(w, c))
		return;
	if (c->read_ended && peer->read_ended && !conn_has_output(c) && !conn_has_output(peer)) {
		end_both(w, c);
		return;
	}
	watch_side(w, c);
	watch_side(w, peer);
}

static void connect_ready(struct worker *w, struct conn *backend, uint32_t events)
{
	if (events & EPOLLERR) {
		int error = 0;
		socklen_t len = sizeof(error);

		getsockopt(backend->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		refuse(w, backend->peer, error);
		return;
	}
	backend->ready = proxy_ready;
	watch_side(w, backend);
	watch_side(w, backend->peer);
}

void proxy_start(struct worker *w, struct conn *client)
{
	const struct endpoint *end = &w->opt->backends[w->next_backend];
	struct conn *backend;
	int fd;

	w->next_backend = (w->next_backend + 1) % w->opt->backend_count;
	fd = socket(end->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		refuse(w, client, errno);
		return;
	}
	backend = conn_new(w, fd, connect_ready);
	if (!backend) {
		refuse(w, client, ENOMEM);
		return;
	}
	client->ready = proxy_ready;
	client->peer = backend;
	backend->peer = client;
	backend->is_backend = true;
	if (connect(fd, (const struct sockaddr *)&end->addr, end->addr_len) &&
	    errno != EINPROGRESS) {
		refuse(w, client, errno);
		return;
	}
	/* Do not read from the client before the backend is connected. */
	conn_watch(w, backend, EPOLLOUT);
}
