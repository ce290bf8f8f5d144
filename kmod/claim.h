/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_CLAIM_H
#define FSOCKET_CLAIM_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/spinlock.h>

struct socket;

/* The claims of one open file of the device. */
struct fsocket_claims {
	/* Protects @list, and is held for no more than a walk through that. */
	spinlock_t lock;
	struct list_head list;
};

/* In place of a CPU: the module chooses one of those allowed to the worker. */
#define FSOCKET_CPU_ANY		-1
/*
 * The same, for a worker that a pinned worker has forked: the module chooses among the
 * CPUs that its parent could use before it was pinned.
 */
#define FSOCKET_CPU_AS_PARENT	-2

/* enable_listen_spawn: which workers get a local listener. */
enum fsocket_spawn_mode {
	FSOCKET_SPAWN_OFF,
	FSOCKET_SPAWN_PINNED,
	FSOCKET_SPAWN_PIN,
};

extern unsigned int fsocket_spawn_mode;

/* Retires what the thread current has spawned on @sock through @claims. */
void fsocket_claims_retire(struct fsocket_claims *claims, struct socket *sock);

/*
 * Retires what the process @owner has spawned through @claims, on @sock or, if that is
 * NULL, on any socket. @owner NULL stands for all processes.
 */
void fsocket_claims_retire_all(struct fsocket_claims *claims, const struct socket *sock,
			       fl_owner_t owner);

#endif
