// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ends a listener: makes its socket an ordinary one, ends its local listeners and
 * claims, and frees it once no task polls it or accepts from it.
 */
#include <linux/file.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <net/sock.h>

#include "bind.h"
#include "inherit.h"
#include "listener.h"
#include "ops.h"

/* Returns whether calls of accept() are under way for @l, which lookups no longer find. */
static bool fsocket_listener_called(const struct fsocket_listener *l)
{
	int cpu, calls = 0;

	for_each_possible_cpu(cpu)
		calls += READ_ONCE(*per_cpu_ptr(l->calls, cpu));
	/* Pairs with fsocket_call_ends(). */
	smp_mb();
	return calls;
}

bool fsocket_listener_free(struct fsocket_listener *l)
{
	int cpu;

	if (fsocket_listener_called(l))
		return false;
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu] && fsocket_local_polled(l->locals[cpu]))
			return false;
	}
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			fsocket_local_free(l->locals[cpu]);
	}
	free_percpu(l->calls);
	/* The timers and the wait queue entries were removed before. */
	kfree_rcu(l, rcu);
	/* fsocket_listen_exit() waits until this function has returned. */
	module_put(THIS_MODULE);
	return true;
}

void fsocket_free_work(struct work_struct *work)
{
	struct fsocket_listener *l = container_of(work, struct fsocket_listener, free_work.work);

	/*
	 * A program may stay in poll() and select() for any time, and may have many
	 * such listeners, so the work item runs less and less often.
	 */
	if (!fsocket_listener_free(l))
		queue_delayed_work(fsocket_wq, &l->free_work, HZ << min(l->free_tries++, 4U));
}

static void fsocket_unread(struct rcu_head *rcu)
{
	fsocket_listener_put(container_of(rcu, struct fsocket_listener, rcu));
}

void fsocket_listener_restore(struct fsocket_listener *l)
{
	/* Leave what the program has set since it was made an ordinary socket, as by ss -K. */
	if (!fsocket_listen_is_ours(l->sock))
		return;
	fsocket_see_sol_socket(l->sock, false);
	fsocket_ops_take_back(l->sock);
	/* If it is not set, the program has cleared it since. */
	if (l->reuseport_ours && l->sock->sk->sk_reuseport)
		l->sock->sk->sk_reuseport = l->reuseport;
	l->reuseport_ours = false;
}

void fsocket_listener_clear(struct fsocket_listener *l)
{
	int cpu;

	WRITE_ONCE(l->ended, true);
	fsocket_claims_drop(l, NULL, NULL, NULL);
	/* Park all before the first becomes quiet: then none has the wait queue of another. */
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			fsocket_local_park(l->locals[cpu]);
	}
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu]) {
			fsocket_local_unbind(l->locals[cpu]);
			fsocket_local_quiet(l->locals[cpu]);
		}
	}
	if (l->guard)
		fsocket_bind_guard_release(l->guard);
	l->guard = NULL;
}

void fsocket_listener_end(struct fsocket_listener *l)
{
	bool last;

	mutex_lock(&l->lock);
	last = !l->ended;
	if (last) {
		lock_sock(l->sock->sk);
		fsocket_listener_hide(l);
		fsocket_listener_restore(l);
		release_sock(l->sock->sk);
		fsocket_listener_clear(l);
	}
	mutex_unlock(&l->lock);
	if (last)
		call_srcu(&fsocket_srcu, &l->rcu, fsocket_unread);
}

void fsocket_end_work(struct work_struct *work)
{
	struct fsocket_listener *l = container_of(work, struct fsocket_listener, end_work);
	struct file *file = l->file;

	fsocket_listener_end(l);
	fsocket_listener_put(l);
	fput(file);
}

void fsocket_end_cancel(struct fsocket_listener *l)
{
	struct file *file = READ_ONCE(l->file);

	if (cancel_work_sync(&l->end_work)) {
		fsocket_listener_put(l);
		fput(file);
	}
}
