/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LISTEN_H
#define FSOCKET_LISTEN_H

#include "claim.h"

struct socket;

int fsocket_listen_init(void);
void fsocket_listen_exit(void);

/* Takes charge of the listening socket @sock, so that it can be spawned. */
int fsocket_listen_adopt(struct socket *sock);

/*
 * Gives current a local listener of @sock on @cpu and remembers that in
 * @claims. Errors: see FSOCKET_IOC_SPAWN_LISTEN.
 */
int fsocket_listen_spawn(struct fsocket_claims *claims, struct socket *sock,
			 int cpu);

#endif
