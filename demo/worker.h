/* SPDX-License-Identifier: GPL-2.0-only */
/* A worker: one process, one epoll instance, any number of connections. */
#ifndef DEMO_WORKER_H
#define DEMO_WORKER_H

#include "options.h"
#include "stats.h"

/*
 * Serves the listening descriptors until SIGTERM or SIGINT, which must be blocked. When
 * they are in the epoll set, writes a byte to ready_fd and closes it.
 */
void worker_run(const struct options *opt, int index, const int *listen_fds,
		struct stats *stats, int ready_fd);

#endif
