/* SPDX-License-Identifier: GPL-2.0-only */
/* Proxy mode: forwards bytes between a client and a backend, in both directions. */
#ifndef DEMO_PROXY_H
#define DEMO_PROXY_H

struct worker;
struct conn;

/* Connects the accepted connection, not watched yet, to the next backend. */
void proxy_start(struct worker *w, struct conn *client);

#endif
