// SPDX-License-Identifier: GPL-2.0-only
/*
 * Brings a listener up to date after a worker has ended, a CPU has gone or come, a CPU
 * without a worker has handled SYNs, somebody has aborted a local listener, or the program
 * has set O_ASYNC. A work item does this, since only tasks that the listener's users may make
 * wait take the listener's lock.
 */
#include <linux/cpumask.h>
#include <linux/file.h>
#include <linux/sched/mm.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "bind.h"
#include "hotplug.h"
#include "listener.h"
#include "ops.h"

/* Parks the local listeners of CPUs that have gone, and starts those of CPUs that are back. */
static void fsocket_follow_cpus(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;
	int cpu;

	for_each_possible_cpu(cpu) {
		if (l->locals[cpu] && !fsocket_cpu_is_here(cpu))
			fsocket_local_park(l->locals[cpu]);
	}
	list_for_each_entry(claim, &l->claims, in_listener) {
		if (claim->active && !claim->local->attached &&
		    fsocket_cpu_is_here(claim->local->cpu))
			fsocket_local_start(claim->local, NULL);
	}
}

/* Returns whether @sk no longer listens. The tracepoint comes before its state changes. */
static bool fsocket_has_left(struct sock *sk)
{
	bool left;

	lock_sock(sk);
	left = sk->sk_state != TCP_LISTEN;
	release_sock(sk);
	return left;
}

/*
 * ss -K looks a listening socket up by its address, and may get a local listener. Returns
 * true if one was aborted, and does the same to the shared listener, which was meant.
 */
static bool fsocket_follow_abort(struct fsocket_listener *l)
{
	const struct fsocket_local *local;
	int cpu;

	for_each_possible_cpu(cpu) {
		local = l->locals[cpu];
		if (!local || !local->sock || !fsocket_has_left(local->sock->sk))
			continue;
		/*
		 * fsocket_state_changes() sees that and ends the listener. If the socket no
		 * longer has our ops, it has left TCP_LISTEN already.
		 */
		if (fsocket_listen_is_ours(l->sock))
			tcp_abort(l->sock->sk, ECONNABORTED);
		return true;
	}
	return false;
}

void fsocket_local_left(const struct sock *sk)
{
	struct fsocket_listener *l;

	if (!sk_is_tcp(sk) || !fsocket_bound_privately(sk))
		return;
	/* The wait queue is that of its own place, or of its host's. */
	l = container_of(rcu_access_pointer(sk->sk_wq), struct fsocket_local, wq)->listener;
	if (!READ_ONCE(l->ended))
		fsocket_listener_tidy(l);
}

/*
 * A program that has set O_ASYNC waits for SIGIO, which local listeners do not send. So its
 * listener becomes an ordinary one, and SIGIO tells of connections that move to its queue.
 */
static void fsocket_follow_async(struct fsocket_listener *l)
{
	struct file *file = NULL;

	mutex_lock(&l->lock);
	/* The reference keeps the program's close() from ending the listener meanwhile. */
	if (!l->ended && sock_flag(l->sock->sk, SOCK_FASYNC) &&
	    atomic_long_inc_not_zero(&l->sock->file->f_count))
		file = l->sock->file;
	mutex_unlock(&l->lock);
	if (!file)
		return;
	fsocket_listener_refresh(l);
	fput(file);
}

void fsocket_tidy_work(struct work_struct *work)
{
	struct fsocket_listener *l =
		container_of(work, struct fsocket_listener, tidy_work);
	struct mem_cgroup *charged;

	fsocket_follow_async(l);
	mutex_lock(&l->lock);
	if (!l->ended && !fsocket_follow_abort(l)) {
		/* A work item belongs to no memory cgroup. */
		charged = set_active_memcg(fsocket_memcg_of(l->sock->sk));
		fsocket_claims_drop_dead(l);
		fsocket_follow_cpus(l);
		fsocket_claims_activate(l);
		fsocket_cover(l);
		set_active_memcg(charged);
	}
	mutex_unlock(&l->lock);
	fsocket_listener_put(l);
}
