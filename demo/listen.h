/* SPDX-License-Identifier: GPL-2.0-only */
/* The listening sockets. */
#ifndef DEMO_LISTEN_H
#define DEMO_LISTEN_H

#include "options.h"

/*
 * Opens every listening socket, or ends the program with status 1 and a sentence.
 * Called before the workers are forked.
 */
void listen_open(const struct options *opt);

/*
 * Returns the descriptors that worker number `worker` serves, one per listening address.
 * Closes those of the other workers, so that a socket does not outlive its worker and collect
 * connections that nobody accepts.
 */
const int *listen_take(const struct options *opt, int worker);

/* Closes them in the parent, after all workers are forked. */
void listen_close(const struct options *opt);

#endif
