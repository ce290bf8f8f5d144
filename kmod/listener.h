/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the local listen table share, and nobody else needs. */
#ifndef FSOCKET_LISTENER_H
#define FSOCKET_LISTENER_H

#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/poll.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/inet_connection_sock.h>

#include "compat.h"

struct fsocket_claims;
struct fsocket_stats;

struct fsocket_local {
	struct fsocket_listener *listener;
	struct socket *sock;
	/*
	 * The wait queue of @sock. Here, not there, since pollers of the shared
	 * listener stay registered with it for as long as that is open.
	 */
	struct socket_wq wq;
	/* On @wq: sees connections arrive. */
	wait_queue_entry_t arrival;
	/* The latest to have claimed it; compared, never dereferenced. */
	const struct task_struct *worker;
	unsigned int claims;
	int cpu;
	bool attached;
};

struct fsocket_listener {
	/* What sock->ops points to, until the socket is closed. */
	struct proto_ops ops;
	const struct proto_ops *orig;
	struct socket *sock;
	struct fsocket_stats __percpu *stats;
	struct list_head in_all;
	struct list_head claims;
	struct delayed_work move_work;
	/* Has been shut down, or got an option that cannot be inherited. */
	bool dead;
	/* The program itself asked for SO_REUSEPORT. */
	bool reuseport;
	struct rcu_head rcu;
	/* By CPU. Set once, under fsocket_mutex; read without lock. */
	struct fsocket_local *locals[];
};

/* A worker's share in a local listener. */
struct fsocket_claim {
	struct list_head in_listener;
	struct list_head in_file;
	struct fsocket_local *local;
	/* The process: its table of open files, as ->flush() names it. */
	fl_owner_t owner;
	const struct task_struct *worker;
	/* We have pinned the worker, which was allowed these CPUs before. */
	bool pinned;
	struct cpumask allowed;
	/* The same thread, for /proc/net/fastsocket_listeners. */
	struct pid *pid;
};

extern struct mutex fsocket_mutex;

/* All of them; under fsocket_mutex. */
extern struct list_head fsocket_listeners;

/* listen.c */

struct fsocket_listener *fsocket_listener_of(const struct socket *sock);

/* Returns the listener of @sock, made if need be; under fsocket_mutex. */
struct fsocket_listener *fsocket_listener_adopt(struct socket *sock);

/* local.c */

/* The listener's local listener for @cpu, made if need be, and attached. */
struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu);
/* Takes @local out of the group; its connections move to the shared queue. */
void fsocket_local_park(struct fsocket_local *local);
void fsocket_move_work(struct work_struct *work);

/* claim.c */

int fsocket_claims_init(void);
void fsocket_claim_drop(struct fsocket_claim *claim);
void fsocket_follow_pin(struct fsocket_listener *l);

/* accept.c */

/* Makes accept() and poll() of @ops ours. */
void fsocket_accept_set_ops(struct proto_ops *ops);

static inline bool fsocket_acceptq_empty(const struct socket *sock)
{
	return reqsk_queue_empty(&inet_csk(sock->sk)->icsk_accept_queue);
}

#endif
