/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LISTEN_H
#define FSOCKET_LISTEN_H

#include <linux/fs.h>
#include <linux/list.h>
#include <linux/seq_file.h>
#include <linux/spinlock.h>

struct proto_ops;
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

int fsocket_listen_init(void);
void fsocket_listen_exit(void);

/* enable_listen_spawn: which workers get a local listener. */
enum fsocket_spawn_mode {
	FSOCKET_SPAWN_OFF,
	FSOCKET_SPAWN_PINNED,
	FSOCKET_SPAWN_PIN,
};

extern unsigned int fsocket_spawn_mode;

/* steal_after_ms: how long connections wait for a busy worker. */
extern unsigned int fsocket_steal_after_ms;

/* Whether the module has taken charge of @sock. */
bool fsocket_listen_is_ours(const struct socket *sock);

/*
 * The ops of the sockets that accept() takes from @sock; NULL if that is not a
 * TCP socket.
 */
const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock);

/* Takes charge of the listening socket @sock, so that it can be spawned. */
int fsocket_listen_adopt(struct socket *sock);

/*
 * Gives current a local listener of @sock on @cpu and remembers that in
 * @claims. Errors: see FSOCKET_IOC_SPAWN_LISTEN.
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

/*
 * /proc/net/fastsocket_listeners: a header row, then the listening sockets of
 * the reader's network namespace that the module has taken charge of. For each
 * a row about its shared listener, one for each worker, and one for each local
 * listener that has no worker any more. Columns:
 *
 * inode	of the listening socket, as in /proc/PID/fd; the same in all its rows
 * port		that it listens on; 0 once it has let go of it
 * family	4 or 6
 * address	that it listens on
 * cpu		of the local listener; -1 for the shared one
 * attached	1 if new connections come here, else 0: a parked local listener,
 *		or a shared one that listens no more
 * worker	thread ID in the pid namespace of this /proc; 0 for none, for one
 *		that has ended, and for one of another namespace
 * queued	connections that wait in the accept queue
 * limit	how many may wait: the backlog
 * host		the CPU whose worker accepts from here, as this one has no worker; else -1
 */
extern const struct seq_operations fsocket_listen_seq_ops;

#endif
