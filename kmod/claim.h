/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_CLAIM_H
#define FSOCKET_CLAIM_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/spinlock.h>

struct socket;

/* What one open file of the device has spawned. */
struct fsocket_claims {
	/* Protects @list, and is held for no more than a walk through that. */
	spinlock_t lock;
	struct list_head list;
};

/* Instead of a CPU: one of those allowed to the worker. */
#define FSOCKET_CPU_ANY		-1
/*
 * The same, but for a worker forked by one that the module had pinned: it may choose
 * among the CPUs that its parent could use.
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
 * Retires what the process @owner has spawned through @claims, on @sock or, if
 * that is NULL, on any socket. Without @owner: what anybody has.
 */
void fsocket_claims_retire_all(struct fsocket_claims *claims, const struct socket *sock,
			       fl_owner_t owner);

#endif
