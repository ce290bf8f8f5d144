/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations that only the files of the local listen table use. */
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
 * A CPU's place at a listener. It has a wait queue from the beginning, and a socket
 * from the first time that it is attached. It lives as long as its listener.
 */
struct fsocket_local {
	struct fsocket_listener *listener;
	int cpu;
	/*
	 * The local listener; NULL at first, and after the socket has moved to another
	 * CPU's place. It lives until the shared one is closed. Read without lock.
	 */
	struct socket *sock;
	/* The private buckets of @sock; NULL once it is not bound. */
	struct fsocket_bind *bind;
	/* The own cookie of @sock, which has that of the shared listener until it ends. */
	u64 cookie;
	/*
	 * The wait queue of @sock. It is here, not in the socket, since pollers of the
	 * shared listener stay registered with it for as long as that is open.
	 */
	struct socket_wq wq;
	/* In @wq; its function runs when a connection arrives. */
	wait_queue_entry_t arrival;
	/* Runs while connections wait, and checks how long the first one has waited. */
	struct timer_list timer;
	/* The first connection in the queue when @timer last ran; compared only. */
	const struct request_sock *seen;
	/* The number of runs of @timer in a row that found the same one. */
	unsigned int late;
	/* The worker of the latest claim; NULL without claims. Read under RCU. */
	const struct task_struct *worker;
	unsigned int claims;
	/* The number of the newest claim; compared only while there are claims. */
	u64 newest;
	bool attached;
	/*
	 * Set if this one is attached without claims: its worker serves this one, and
	 * @sock has its wait queue; see cover.c. Changed under the listener's lock;
	 * this and what follows is read without.
	 */
	struct fsocket_local *host;
	/* The number of local listeners whose host this one is. */
	unsigned int guests;
	/* The CPU of the guest of another worker at which the worker looked last; a hint. */
	unsigned int turn;
	/* The CPUs from whose queues the worker takes: its own, and those of its guests. */
	unsigned long served[];
};

/*
 * Locks, in this order: @lock; the lock of the socket; fsocket_listeners_mutex, which
 * protects membership in lists, is global, and is never held during a wait that a user
 * can prolong; @claims_lock.
 */
struct fsocket_listener {
	/* Node in the table by socket; read under fsocket_srcu. */
	struct hlist_node in_table;
	struct list_head in_all;
	/*
	 * 1 until the listener ends; calls that sleep, and work items, hold further
	 * references. The listener holds a reference to the module.
	 */
	refcount_t refs;
	/* The number of calls of accept(): the sum over the CPUs; see accept.c. */
	int __percpu *calls;
	struct socket *sock;
	/* Inode number of the socket, for /proc. */
	unsigned long ino;
	/* Held while spawning, retiring and ending. */
	struct mutex lock;
	/* The socket no longer listens, or cannot have local listeners; under @lock. */
	bool ended;
	/* Runs when the socket has left TCP_LISTEN; holds @file. */
	struct work_struct end_work;
	struct file *file;
	struct work_struct tidy_work;
	struct delayed_work free_work;
	/* How often the work item found the listener in use. */
	unsigned int free_tries;
	struct rcu_head rcu;
	/* Keeps the port in the kernel's bind table; see bind.c. */
	struct socket *guard;
	struct fsocket_stats __percpu *stats;
	/* Changed under @lock and @claims_lock. */
	struct list_head claims;
	/* Claims that have entered a place since the beginning; under @lock. */
	u64 entered;
	/* Used by readers of /proc, which must not wait for @lock. */
	spinlock_t claims_lock;
	/* The program itself set SO_REUSEPORT before the first spawn. */
	bool reuseport;
	/* The module set it; changed under the socket's lock. */
	bool reuseport_ours;
	/*
	 * The CPUs that were seen to handle SYNs without a local listener. Bits are set
	 * without lock. The memory is behind @locals.
	 */
	unsigned long *syn_cpus;
	/* The number of guests (cover.c); changed under @lock, read without. */
	unsigned int guests;
	/* The places by CPU. Each is set once, under @lock, and read without. */
	struct fsocket_local *locals[];
};

/* A worker's claim on a local listener. */
struct fsocket_claim {
	struct list_head in_listener;
	struct list_head in_file;
	/* Node in the table by worker; see claim.c. */
	struct hlist_node in_table;
	struct fsocket_listener *listener;
	/* The claims of the open device. */
	struct fsocket_claims *file;
	/* Changed under the listener's lock. */
	struct fsocket_local *local;
	/* The local listener is attached, and the worker is pinned if @pin is set. */
	bool active;
	/* fsocket_unpin() has to be called. */
	bool pinned;
	/* The module is to pin the worker. */
	bool pin;
	/* The program has named the CPU. */
	bool wanted;
	/* The process, by its table of open files, which ->flush() gets. */
	fl_owner_t owner;
	/* The claim holds a reference. */
	struct task_struct *worker;
	/* The same thread, for /proc/net/fastsocket_listeners. */
	struct pid *pid;
	struct rcu_head rcu;
};

extern struct mutex fsocket_listeners_mutex;
/* All listeners; changed under fsocket_listeners_mutex, read under RCU. */
extern struct list_head fsocket_listeners;
extern struct srcu_struct fsocket_srcu;
/*
 * The queue of the listeners' work items. They wait for the lock of a user's socket, so
 * many of them would use up a workqueue of the system and stop other work of the kernel
 * there.
 */
extern struct workqueue_struct *fsocket_wq;

/*
 * Calls the original ops for a socket whose listener has ended. The socket then holds
 * no reference to the module while the call may sleep, so the macro takes one.
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

/* Returns the listener of @sock, or NULL. Called under fsocket_srcu. */
struct fsocket_listener *fsocket_listener_find(const struct socket *sock);
/* Returns the same with a reference. Called in any context. */
struct fsocket_listener *fsocket_listener_get(const struct socket *sock);
void fsocket_listener_put(struct fsocket_listener *l);
/* From now on lookups find @l; called under fsocket_listeners_mutex. */
void fsocket_listener_show(struct fsocket_listener *l);
/* Removes @l from the list and the table, so that lookups no longer find it. */
void fsocket_listener_hide(struct fsocket_listener *l);
/* Queues work that parks local listeners without CPU or living worker. Called in any context. */
void fsocket_listener_tidy(struct fsocket_listener *l);

/* end.c */

/* Makes the socket of @l an ordinary one again, with one shared accept queue. */
void fsocket_listener_end(struct fsocket_listener *l);
/* Function of @end_work, which holds references to the listener and to its file. */
void fsocket_end_work(struct work_struct *work);
/* Cancels @end_work, or waits for it. */
void fsocket_end_cancel(struct fsocket_listener *l);
/* Makes the socket, which is locked, an ordinary one again; it stays in its group. */
void fsocket_listener_restore(struct fsocket_listener *l);
/*
 * Ends all local listeners of @l. Their queued connections move to the shared queue,
 * and closing or disconnecting the shared socket ends them there. Called under the
 * listener's lock.
 */
void fsocket_listener_clear(struct fsocket_listener *l);
/*
 * Frees @l, which has ended and which lookups no longer find. Returns false if a call
 * of accept() or poll() still uses it.
 */
bool fsocket_listener_free(struct fsocket_listener *l);
/* Function of that work item. */
void fsocket_free_work(struct work_struct *work);

/* options.c */

/*
 * Copies the options of the shared listener to the local ones again. Returns false if
 * that failed and ended @l.
 */
bool fsocket_listener_refresh(struct fsocket_listener *l);
/* Replaces setsockopt() of @ops. */
void fsocket_options_set_ops(struct proto_ops *ops);

/* local.c */

/*
 * Returns the listener's place for @cpu, and makes it if there is none; or an
 * ERR_PTR(). Called under the listener's lock.
 */
struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu);
/*
 * From now on SYNs that the CPU of @local handles go to @local, which gets a socket if
 * it has none. The worker of @host serves it; if that is NULL, its own worker does.
 */
int fsocket_local_start(struct fsocket_local *local, struct fsocket_local *host);
/* Takes @local out of the group; its connections move to the shared queue. */
void fsocket_local_park(struct fsocket_local *local);
/* Ends @local, which is parked: it no longer listens, and lets go of the port. */
void fsocket_local_unbind(struct fsocket_local *local);
/* Stops the timer of @local, at which no connection arrives any more, and wakes its pollers. */
void fsocket_local_quiet(struct fsocket_local *local);
/* Returns whether a poller still is registered with @local; called after fsocket_local_quiet(). */
bool fsocket_local_polled(struct fsocket_local *local);
/* Frees @local, which lookups no longer find and which has no pollers. */
void fsocket_local_free(struct fsocket_local *local);

/* late.c */

/* Moves the connections that wait at @local to the shared queue. */
void fsocket_local_move(struct fsocket_local *local);
/* Has the timer of @local run whenever a connection arrives there. */
void fsocket_local_watch(struct fsocket_local *local);
/* Has the timer run, too, for connections that are there already. */
void fsocket_local_look_soon(struct fsocket_local *local);

/* cover.c */

/* Notes that @cpu handled a SYN whose connection is in another queue. Called in any context. */
void fsocket_cover_want(struct fsocket_listener *l, int cpu);
/* Called when claims on @l or CPUs have come or gone, under the listener's lock. */
void fsocket_cover(struct fsocket_listener *l);

/* claim.c */

/* Returns 0 if the administrator lets current spawn, or an error. */
int fsocket_spawn_allowed(void);
/* Does what fsocket_listen_spawn() does, with a listener that has been adopted. */
int fsocket_spawn_on(struct fsocket_claims *file, struct fsocket_listener *l, int want);
/*
 * Drops the claims on @l of @owner and @worker; NULL stands for all. Called under the
 * listener's lock.
 */
void fsocket_claims_drop(struct fsocket_listener *l, struct fsocket_claims *file,
			 fl_owner_t owner, const struct task_struct *worker);
/*
 * Starts the local listeners of all workers that have been waiting for a second one, or
 * whose local listener could not be made. Called under the listener's lock.
 */
void fsocket_claims_activate(struct fsocket_listener *l);
/* Drops the claims of threads that exit. Called under the listener's lock. */
void fsocket_claims_drop_dead(struct fsocket_listener *l);
int fsocket_claims_init(void);
void fsocket_claims_exit(void);
/* Moves the claim of current to the CPU to which current has pinned itself. */
void fsocket_follow_pin(struct fsocket_listener *l);

/* tidy.c */

/* Function of the work item that fsocket_listener_tidy() queues. */
void fsocket_tidy_work(struct work_struct *work);
/*
 * @sk, a locked socket that is not a shared listener, leaves TCP_LISTEN. If it is a local
 * listener whose listener has not ended, somebody has aborted it, and the work item aborts
 * the shared listener, too. Called with preemption off.
 */
void fsocket_local_left(const struct sock *sk);

/* accept.c */

/* Called when the module is loaded, before it has listeners. */
void fsocket_accept_init(void);
/* Replaces accept() and poll() of @ops. */
void fsocket_accept_set_ops(struct proto_ops *ops);

/* listen_seq.c */

/* Replaces getsockopt() of @ops. */
void fsocket_info_set_ops(struct proto_ops *ops);

/* Returns whether the worker of @claim exits, which gives up its claims. */
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
	/* Pairs with smp_store_release() in local.c. */
	return smp_load_acquire(&local->sock);
}

static inline struct fsocket_local *fsocket_local_at(const struct fsocket_listener *l,
						     int cpu)
{
	/* Pairs with fsocket_local_get(). */
	return smp_load_acquire(&l->locals[cpu]);
}

/* Returns whether connections wait at @local. */
static inline bool fsocket_local_queued(const struct fsocket_local *local)
{
	const struct socket *sock = fsocket_local_sock(local);

	return sock && !fsocket_acceptq_empty(sock);
}

#endif
