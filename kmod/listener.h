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
#include <linux/refcount.h>
#include <linux/srcu.h>
#include <linux/timer.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/inet_connection_sock.h>

#include "compat.h"

struct fsocket_bind;
struct fsocket_claims;
struct fsocket_stats;

/*
 * A CPU's place at a listener: a wait queue at once, and a socket from the first
 * time that it is attached. Lives as long as its listener.
 */
struct fsocket_local {
	struct fsocket_listener *listener;
	int cpu;
	/*
	 * The local listener; NULL at first, and when it has gone to another CPU. It
	 * lives until the shared one is closed. Read without lock.
	 */
	struct socket *sock;
	/* How @sock is bound; NULL once it is not. */
	struct fsocket_bind *bind;
	/*
	 * The wait queue of @sock. Here, not there, since pollers of the shared
	 * listener stay registered with it for as long as that is open.
	 */
	struct socket_wq wq;
	/* On @wq: sees connections arrive. */
	wait_queue_entry_t arrival;
	/* Runs while connections wait; looks for how long the first one does. */
	struct timer_list timer;
	/* The first in the queue when @timer last looked; compared only. */
	const struct request_sock *seen;
	/* How many times in a row that has been the same. */
	unsigned int late;
	/* The latest to have claimed it; NULL without claims. Under RCU. */
	const struct task_struct *worker;
	unsigned int claims;
	bool attached;
	/*
	 * Attached without claims: whose worker serves it, and whose wait queue @sock has;
	 * see cover.c. Under the listener's lock; read without, as is all that follows.
	 */
	struct fsocket_local *host;
	/* How many have this one as their host. */
	unsigned int guests;
	/* The CPU from whose queue the worker has taken last; a hint. */
	unsigned int turn;
	/* The CPUs whose queues the worker takes from: its own, and its guests'. */
	unsigned long served[];
};

/*
 * Locks, in this order: @lock; the lock of the socket; fsocket_listeners_mutex, which
 * protects membership in lists, is global, and is never held while waiting for anything
 * of a user's; @claims_lock.
 */
struct fsocket_listener {
	/* In the table by socket. Read under fsocket_srcu. */
	struct hlist_node in_table;
	struct list_head in_all;
	/* 1 until it ends; what runs for long, or later, has its own. Holds the module. */
	refcount_t refs;
	/* How many are in accept(): the sum over the CPUs; see there. */
	int __percpu *calls;
	struct socket *sock;
	/* Of the socket's inode, for /proc. */
	unsigned long ino;
	/* Spawning, retiring, ending. */
	struct mutex lock;
	/* The socket listens no more, or cannot have local listeners; under @lock. */
	bool ended;
	/* Runs when the socket has left TCP_LISTEN; holds @file. */
	struct work_struct end_work;
	struct file *file;
	struct work_struct tidy_work;
	struct delayed_work free_work;
	/* How often that has been in vain. */
	unsigned int free_tries;
	struct rcu_head rcu;
	/* Keeps the port in the kernel's bind table; see bind.c. */
	struct socket *guard;
	struct fsocket_stats __percpu *stats;
	/* Changed under @lock and @claims_lock. */
	struct list_head claims;
	/* For /proc, which may not wait for @lock. */
	spinlock_t claims_lock;
	/* The program itself asked for SO_REUSEPORT. */
	bool reuseport;
	/*
	 * The CPUs that were seen to handle SYNs without a local listener. Set without lock;
	 * behind @locals.
	 */
	unsigned long *syn_cpus;
	/* By CPU. Set once, under @lock; read without. */
	struct fsocket_local *locals[];
};

/* A worker's share in a local listener. */
struct fsocket_claim {
	struct list_head in_listener;
	struct list_head in_file;
	/* By worker; see claim.c. */
	struct hlist_node in_table;
	struct fsocket_listener *listener;
	/* The open device. */
	struct fsocket_claims *file;
	/* Under the listener's lock. */
	struct fsocket_local *local;
	/* The local listener is attached for it, and it is pinned if that is wanted. */
	bool active;
	/* A call of fsocket_unpin() is owed. */
	bool pinned;
	/* Pinning the worker is up to the module. */
	bool pin;
	/* The program has named the CPU. */
	bool wanted;
	/* The process: its table of open files, as ->flush() names it. */
	fl_owner_t owner;
	/* Referenced. */
	struct task_struct *worker;
	/* The same thread, for /proc/net/fastsocket_listeners. */
	struct pid *pid;
	struct rcu_head rcu;
};

extern struct mutex fsocket_listeners_mutex;
/* All of them; changed under fsocket_listeners_mutex, read under RCU. */
extern struct list_head fsocket_listeners;
extern struct srcu_struct fsocket_srcu;
/*
 * For the works of listeners. These wait for the lock of a user's socket, so many of them
 * would use up a workqueue of the system's, and stop what else the kernel does there.
 */
extern struct workqueue_struct *fsocket_wq;

/*
 * A call of the original ops for a socket that has ended in between, so that no
 * reference of its keeps the module while the call may sleep.
 */
#define fsocket_passing(call)						\
({									\
	int __ret = -EAGAIN;						\
									\
	if (try_module_get(THIS_MODULE)) {				\
		__ret = (call);						\
		module_put(THIS_MODULE);				\
	}								\
	__ret;								\
})

/* listener.c */

/* The listener of @sock, if it has one; under fsocket_srcu. */
struct fsocket_listener *fsocket_listener_find(const struct socket *sock);
/* The same with a reference, or NULL; anywhere. */
struct fsocket_listener *fsocket_listener_get(const struct socket *sock);
void fsocket_listener_put(struct fsocket_listener *l);
/* @l is found from now on; under fsocket_listeners_mutex. */
void fsocket_listener_show(struct fsocket_listener *l);
/* Nobody finds @l any more. */
void fsocket_listener_hide(struct fsocket_listener *l);
/* Parks what has no CPU or no living worker any more; later, and from anywhere. */
void fsocket_listener_tidy(struct fsocket_listener *l);

/* end.c */

/* Back to one shared accept queue: the socket is an ordinary one again. */
void fsocket_listener_end(struct fsocket_listener *l);
/* The work of that, which holds a reference to @l, and @l's to the file; it may be taken back. */
void fsocket_end_work(struct work_struct *work);
/* Takes it back, or waits for it. */
void fsocket_end_cancel(struct fsocket_listener *l);
/* The socket is an ordinary one again, but for its group; it is locked. */
void fsocket_listener_restore(struct fsocket_listener *l);
/*
 * Ends all local listeners of @l. Their queued connections move to the shared one,
 * where closing or disconnecting that deals with them. Under its lock.
 */
void fsocket_listener_clear(struct fsocket_listener *l);
/* Frees @l, which has ended, and nobody can find; false while it is polled, or accepts. */
bool fsocket_listener_free(struct fsocket_listener *l);
/* The work of that. */
void fsocket_free_work(struct work_struct *work);

/* options.c */

/* Gives the local listeners the options of @l again; false: that ended it. */
bool fsocket_listener_refresh(struct fsocket_listener *l);
/* Makes setsockopt() of @ops ours. */
void fsocket_options_set_ops(struct proto_ops *ops);

/* local.c */

/* The listener's place for @cpu, made if need be; under the listener's lock. */
struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu);
/*
 * From now on SYNs handled by its CPU come to @local, the socket of which is made if need
 * be; the worker of @host serves it, or, if that is NULL, its own.
 */
int fsocket_local_start(struct fsocket_local *local, struct fsocket_local *host);
/* Takes @local out of the group; its connections move to the shared queue. */
void fsocket_local_park(struct fsocket_local *local);
/* Ends the parked @local: it listens no more, and lets go of the port. */
void fsocket_local_unbind(struct fsocket_local *local);
/* No connection arrives any more, and epoll instances forget @local. */
void fsocket_local_quiet(struct fsocket_local *local);
/* After that: whether poll() still waits at it. */
bool fsocket_local_polled(struct fsocket_local *local);
/* Frees it, when nobody can find it any more, and nobody waits at it. */
void fsocket_local_free(struct fsocket_local *local);

/* cover.c */

/* A connection that was handled on @cpu came elsewhere. Anywhere. */
void fsocket_cover_want(struct fsocket_listener *l, int cpu);
/* To be called when claims on @l, or CPUs, have come or gone. Under its lock. */
void fsocket_cover(struct fsocket_listener *l);

/* claim.c */

/* Whether the sysadmin lets current spawn: 0, or an error. */
int fsocket_spawn_allowed(void);
/* Does what fsocket_listen_spawn() does, with a listener that has been adopted. */
int fsocket_spawn_on(struct fsocket_claims *file, struct fsocket_listener *l, int want);
/* Drops the claims on @l of @owner and @worker; each NULL is for any. Under its lock. */
void fsocket_claims_drop(struct fsocket_listener *l, struct fsocket_claims *file,
			 fl_owner_t owner, const struct task_struct *worker);
/* Those of threads that have ended. Under its lock. */
void fsocket_claims_drop_dead(struct fsocket_listener *l);
int fsocket_claims_init(void);
void fsocket_claims_exit(void);
/* A worker that has pinned itself takes its claim along. */
void fsocket_follow_pin(struct fsocket_listener *l);

/* tidy.c */

/* The work of fsocket_listener_tidy(). */
void fsocket_tidy_work(struct work_struct *work);

/* accept.c */

/* Makes accept() and poll() of @ops ours. */
void fsocket_accept_set_ops(struct proto_ops *ops);

/* listen_seq.c */

/* Makes getsockopt() of @ops ours. */
void fsocket_info_set_ops(struct proto_ops *ops);

/* A thread that is on its way out has given up its claims. */
static inline bool fsocket_claim_is_dead(const struct fsocket_claim *claim)
{
	return READ_ONCE(claim->worker->flags) & PF_EXITING;
}

static inline bool fsocket_acceptq_empty(const struct socket *sock)
{
	return reqsk_queue_empty(&inet_csk(sock->sk)->icsk_accept_queue);
}

/* accept() and poll() read both without a lock; they were published complete. */
static inline struct socket *fsocket_local_sock(const struct fsocket_local *local)
{
	/* Pairs with who gives it a socket, in local.c. */
	return smp_load_acquire(&local->sock);
}

static inline struct fsocket_local *fsocket_local_at(const struct fsocket_listener *l,
						     int cpu)
{
	/* Pairs with fsocket_local_get(). */
	return smp_load_acquire(&l->locals[cpu]);
}

/* Whether connections wait at @local. */
static inline bool fsocket_local_queued(const struct fsocket_local *local)
{
	const struct socket *sock = fsocket_local_sock(local);

	return sock && !fsocket_acceptq_empty(sock);
}

#endif
