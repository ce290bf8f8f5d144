/* SPDX-License-Identifier: GPL-2.0-only */
/* Server mode: finds the end of each request, and answers it with 200. */
#ifndef DEMO_HTTP_H
#define DEMO_HTTP_H

#include <stdint.h>

struct worker;
struct conn;

/* Event handler of an accepted connection. */
void http_ready(struct worker *w, struct conn *c, uint32_t events);

/* Answers with 502, and gives up the connection: the backend cannot be reached. */
void http_bad_gateway(struct worker *w, struct conn *c);

#endif
