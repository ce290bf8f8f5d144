// SPDX-License-Identifier: GPL-2.0-only
#include "worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "conn.h"
#include "http.h"
#include "log.h"
#include "proxy.h"

#define EVENTS_PER_ROUND 64
#define STOP_MS 1000		/* time for busy connections to finish before a stop */
#define PAUSE_MS 100		/* between attempts to accept when descriptors have run out */

static struct worker worker;

static void listen_start(struct worker *w)
{
	uint32_t interest = EPOLLIN;

	if (w->opt->mode == MODE_EXCLUSIVE)
		interest |= EPOLLEXCLUSIVE;
	for (int i = 0; i < w->opt->listen_count; i++)
		conn_watch(w, &w->listeners[i], interest);
}

static void listen_stop(struct worker *w)
{
	for (int i = 0; i < w->opt->listen_count; i++)
		conn_watch(w, &w->listeners[i], 0);
}

/*
 * Without a free descriptor, epoll would report the waiting connection again and again.
 * So the worker stops listening until a connection is closed, or for PAUSE_MS.
 */
static void pause_accepting(struct worker *w, int error)
{
	static bool told;

	if (!told)
		warn("worker %d: cannot accept: %s: connections wait until others close; raise the limit of open files (ulimit -Hn) for more at a time",
		     w->index, strerror(error));
	told = true;
	w->paused = true;
	listen_stop(w);
}

/*
 * Accepts one connection per event, as the original does, so that the workers that share
 * a listening socket take turns.
 */
static void listener_ready(struct worker *w, struct conn *listener, uint32_t events)
{
	struct conn *c;
	int fd;

	(void)events;
	if (w->paused || w->stopping)
		return;
	fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		/* EAGAIN: another worker has accepted the connection. */
		if (errno == EAGAIN || errno == EINTR)
			return;
		worker_count(w, errors);
		debug("worker %d: accept: %s", w->index, strerror(errno));
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_accepting(w, errno);
		return;
	}
	worker_count(w, accepted);
	debug("worker %d: fd %d: accepted", w->index, fd);
	c = conn_new(w, fd, http_ready);
	if (!c)
		return;
	if (w->opt->backend_count)
		proxy_start(w, c);
	else
		conn_watch(w, c, EPOLLIN);
}

static void signal_ready(struct worker *w, struct conn *c, uint32_t events)
{
	(void)events;
	w->stopping = true;
	/* The signalfd stays readable, so watch it no longer. */
	conn_watch(w, c, 0);
}

static void recycle(struct worker *w)
{
	while (w->closed_conns) {
		struct conn *c = w->closed_conns;

		w->closed_conns = c->next;
		c->next = w->free_conns;
		w->free_conns = c;
	}
}

/* Serves one batch of events, and returns how many there were. */
static int serve_round(struct worker *w, int timeout_ms)
{
	struct epoll_event events[EVENTS_PER_ROUND];
	int n = epoll_wait(w->epoll, events, EVENTS_PER_ROUND, timeout_ms);

	if (n < 0 && errno != EINTR)
		fail(1, "worker %d: epoll_wait: %s", w->index, strerror(errno));
	for (int i = 0; i < n; i++) {
		struct conn *c = events[i].data.ptr;

		/* An earlier event of the round may have closed the connection. */
		if (c->fd >= 0)
			c->ready(w, c, events[i].events);
	}
	if (w->paused && (n == 0 || w->closed_conns) && !w->stopping) {
		w->paused = false;
		listen_start(w);
	}
	recycle(w);
	return n;
}

static bool any_busy(const struct worker *w)
{
	for (const struct conn_chunk *chunk = w->chunks; chunk; chunk = chunk->next)
		for (int i = 0; i < CONNS_PER_CHUNK; i++)
			if (conn_busy(&chunk->conns[i]))
				return true;
	return false;
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/*
 * Serves requests that are in the sockets' buffers or partly received, sent or forwarded,
 * for at most STOP_MS.
 */
static void finish(struct worker *w)
{
	long end = now_ms() + STOP_MS, left;

	listen_stop(w);
	for (int i = 0; i < w->opt->listen_count; i++)
		close(w->listeners[i].fd);
	do {
		left = end - now_ms();
	} while (left > 0 && serve_round(w, any_busy(w) ? left : 0) != 0);
}

static void watch_signals(struct worker *w, struct conn *c)
{
	sigset_t stop;

	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	c->fd = signalfd(-1, &stop, SFD_NONBLOCK | SFD_CLOEXEC);
	if (c->fd < 0)
		fail(1, "worker %d: signalfd: %s", w->index, strerror(errno));
	c->ready = signal_ready;
	conn_watch(w, c, EPOLLIN);
}

void worker_run(const struct options *opt, int index, const int *listen_fds,
		struct stats *stats, int ready_fd)
{
	static struct conn signals;
	struct worker *w = &worker;

	w->index = index;
	w->opt = opt;
	w->stats = stats;
	/* Workers begin with different backends, so that the first one is not overloaded. */
	w->next_backend = opt->backend_count ? index % opt->backend_count : 0;
	w->listeners = calloc(opt->listen_count, sizeof(*w->listeners));
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (!w->listeners || w->epoll < 0)
		fail(1, "worker %d: cannot start: %s", index, strerror(errno));
	watch_signals(w, &signals);
	for (int i = 0; i < opt->listen_count; i++) {
		w->listeners[i].fd = listen_fds[i];
		w->listeners[i].ready = listener_ready;
	}
	listen_start(w);
	if (write(ready_fd, "", 1) != 1)
		fail(1, "worker %d: the parent is gone", index);
	close(ready_fd);

	while (!w->stopping)
		serve_round(w, w->paused ? PAUSE_MS : -1);
	finish(w);
}
