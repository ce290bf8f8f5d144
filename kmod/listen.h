/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LISTEN_H
#define FSOCKET_LISTEN_H

#include <linux/fs.h>
#include <linux/list.h>

struct proto_ops;
struct socket;

/* What one open file of the device has spawned. */
struct fsocket_claims {
	struct list_head list;
};

/* Instead of a CPU: one of those allowed to the worker. */
#define FSOCKET_CPU_ANY		-1
/*
 * The same; and a worker that has been forked by one that the module had pinned
 * may choose as that one could.
 */
#define FSOCKET_CPU_AS_PARENT	-2

int fsocket_listen_init(void);
void fsocket_listen_exit(void);

/* Whether the module has taken charge of @sock. */
bool fsocket_listen_is_ours(const struct socket *sock);

/*
 * The ops of the sockets that accept() takes from @sock; NULL if that is not a
 * TCP socket.
 */
const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock);

/* Whether current would have to wait if it accepted from @sock, a TCP socket. */
bool fsocket_listen_idle(const struct socket *sock);

/* Takes charge of the listening socket @sock, so that it can be spawned. */
int fsocket_listen_adopt(struct socket *sock);

/*
 * Gives current a local listener of @sock on @cpu and remembers that in @claims. Errors: see FSOCKET_IOC_SPAWN_LISTEN.
 */
int fsocket_listen_spawn(struct fsocket_claims *claims, struct socket *sock,
			 int cpu);

/* Retires what the thread current has spawned on @sock through @claims. */
void fsocket_listen_retire(struct fsocket_claims *claims, struct socket *sock);

/*
 * Retires what the process @owner has spawned through @claims, on @sock or, if
 * that is NULL, on any socket. Without @owner: what anybody has.
 */
void fsocket_listen_retire_all(struct fsocket_claims *claims,
			       const struct socket *sock, fl_owner_t owner);

#endif
