// SPDX-License-Identifier: GPL-2.0-only
/*
 * Workers: the module chooses a CPU for each worker, and the worker has a claim on the
 * local listener there until it gives that back.
 *
 * The first worker of a listener mostly gets nothing yet (fsocket_needs_company()), since a
 * server with one worker is left alone: two accept queues would not make it faster, and its
 * other threads and children would suffer from a pin. With the second worker the local
 * listeners of both begin to receive connections, and with enable_listen_spawn=2 both are
 * pinned if they have not pinned themselves.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/hashtable.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <net/inet_sock.h>

#include "claim.h"
#include "hotplug.h"
#include "listener.h"
#include "log.h"
#include "pins.h"
#include "resolve.h"

/* A change applies to later spawns only. */
unsigned int fsocket_spawn_mode = FSOCKET_SPAWN_PIN;

/* The number of claims on each CPU, of all listeners. */
static DEFINE_PER_CPU(atomic_t, fsocket_cpu_claims);

/*
 * All claims, by worker. Changed under the lock, which is held for the change only;
 * read under RCU.
 */
static DEFINE_HASHTABLE(fsocket_claims_table, 8);
static DEFINE_SPINLOCK(fsocket_claims_table_lock);

static struct tracepoint *fsocket_process_exit;

static void fsocket_claim_enter(struct fsocket_claim *claim,
				struct fsocket_local *local)
{
	WRITE_ONCE(claim->local, local);
	local->claims++;
	local->newest = ++local->listener->entered;
	atomic_inc(per_cpu_ptr(&fsocket_cpu_claims, local->cpu));
	WRITE_ONCE(local->worker, claim->worker);
}

/* Returns the worker of another claim on the place of @claim; NULL if there is none. */
static const struct task_struct *fsocket_claim_colleague(const struct fsocket_claim *claim)
{
	struct fsocket_claim *other;

	/* Changes of the list also take the listener's lock, which we hold. */
	list_for_each_entry(other, &claim->listener->claims, in_listener) {
		if (other != claim && other->local == claim->local)
			return other->worker;
	}
	return NULL;
}

static void fsocket_claim_leave(struct fsocket_claim *claim)
{
	struct fsocket_local *local = claim->local;

	if (local->worker == claim->worker)
		WRITE_ONCE(local->worker, fsocket_claim_colleague(claim));
	atomic_dec(per_cpu_ptr(&fsocket_cpu_claims, local->cpu));
	if (!--local->claims)
		fsocket_local_park(local);
}

static void fsocket_claim_free(struct rcu_head *rcu)
{
	struct fsocket_claim *claim = container_of(rcu, struct fsocket_claim, rcu);

	put_task_struct(claim->worker);
	put_pid(claim->pid);
	kfree(claim);
}

/* Undoes what @claim, which is in no list any more, has done. Called under the listener's lock. */
static void fsocket_claim_undo(struct fsocket_claim *claim)
{
	fsocket_claim_leave(claim);
	if (claim->pinned)
		fsocket_unpin(claim->worker);
	call_rcu(&claim->rcu, fsocket_claim_free);
}

static bool fsocket_claim_is(const struct fsocket_claim *claim, fl_owner_t owner,
			     const struct task_struct *worker)
{
	return (!owner || claim->owner == owner) && (!worker || claim->worker == worker);
}

/* Called under the listener's lock, as is fsocket_claim_unlink(). */
static void fsocket_claim_link(struct fsocket_claim *claim)
{
	spin_lock(&claim->listener->claims_lock);
	list_add(&claim->in_listener, &claim->listener->claims);
	spin_unlock(&claim->listener->claims_lock);
	spin_lock(&claim->file->lock);
	list_add(&claim->in_file, &claim->file->list);
	spin_unlock(&claim->file->lock);
	spin_lock(&fsocket_claims_table_lock);
	hash_add_rcu(fsocket_claims_table, &claim->in_table, (unsigned long)claim->worker);
	spin_unlock(&fsocket_claims_table_lock);
}

static void fsocket_claim_unlink(struct fsocket_claim *claim)
{
	spin_lock(&fsocket_claims_table_lock);
	hash_del_rcu(&claim->in_table);
	spin_unlock(&fsocket_claims_table_lock);
	spin_lock(&claim->listener->claims_lock);
	list_del(&claim->in_listener);
	spin_unlock(&claim->listener->claims_lock);
	/* This comes last, since the file may be freed as soon as it has no claim any more. */
	spin_lock(&claim->file->lock);
	list_del(&claim->in_file);
	spin_unlock(&claim->file->lock);
}

/*
 * Returns whether @claim gets nothing while there is no other worker. A worker gets its local
 * listener at once if it has named the CPU, or if it is pinned and the program has a group of
 * listeners (SO_REUSEPORT), one for each worker: then it serves its CPU in that group.
 */
static bool fsocket_needs_company(const struct fsocket_claim *claim)
{
	return !claim->wanted && (claim->pin || !claim->listener->reuseport);
}

/* Returns whether @l has one worker only, which gets nothing. Called under the listener's lock. */
static bool fsocket_lone_worker(const struct fsocket_listener *l)
{
	const struct fsocket_claim *claim, *last = NULL;

	list_for_each_entry(claim, &l->claims, in_listener) {
		if (!fsocket_needs_company(claim) || (last && claim->worker != last->worker))
			return false;
		last = claim;
	}
	return last;
}

/*
 * If one worker of @l is left, takes back what it was given: a lone worker is left alone,
 * whether or not there was another before. Called under the listener's lock.
 */
static void fsocket_claims_settle(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	if (!fsocket_lone_worker(l))
		return;
	list_for_each_entry(claim, &l->claims, in_listener) {
		if (!claim->active)
			continue;
		claim->active = false;
		fsocket_local_park(claim->local);
		if (claim->pinned)
			fsocket_unpin(claim->worker);
		claim->pinned = false;
	}
}

void fsocket_claims_drop_dead(struct fsocket_listener *l)
{
	struct fsocket_claim *claim, *next;

	/* Changes of the list also take the listener's lock, which we hold. */
	list_for_each_entry_safe(claim, next, &l->claims, in_listener) {
		if (!fsocket_claim_is_dead(claim))
			continue;
		fsocket_claim_unlink(claim);
		fsocket_claim_undo(claim);
	}
	fsocket_claims_settle(l);
}

void fsocket_claims_drop(struct fsocket_listener *l, struct fsocket_claims *file,
			 fl_owner_t owner, const struct task_struct *worker)
{
	struct fsocket_claim *claim, *next;
	LIST_HEAD(dropped);

	list_for_each_entry_safe(claim, next, &l->claims, in_listener) {
		if ((file && claim->file != file) || !fsocket_claim_is(claim, owner, worker))
			continue;
		fsocket_claim_unlink(claim);
		list_add(&claim->in_listener, &dropped);
	}
	list_for_each_entry_safe(claim, next, &dropped, in_listener)
		fsocket_claim_undo(claim);
	fsocket_claims_settle(l);
	fsocket_cover(l);
}

/*
 * Returns whether @one is a better CPU for a worker of @l than @other is: it has fewer
 * claims on @l, or its newest one is older. At a reload, new workers come while the old
 * ones leave at any moment. A CPU that an old worker has just left, and a new one has
 * taken, then has as many as one whose old worker is about to leave.
 *
 * A user who claims CPUs by the thousand for listeners of their own must not drive the
 * workers of @l onto one CPU, so claims of other listeners decide only where @l has none.
 */
static bool fsocket_cpu_better(const struct fsocket_listener *l, int one, int other)
{
	const struct fsocket_local *here = l->locals[one], *there = l->locals[other];
	unsigned int mine = here ? here->claims : 0, theirs = there ? there->claims : 0;

	if (mine != theirs)
		return mine < theirs;
	if (mine)
		return here->newest < there->newest;
	return atomic_read(per_cpu_ptr(&fsocket_cpu_claims, one)) <
	       atomic_read(per_cpu_ptr(&fsocket_cpu_claims, other));
}

/*
 * Returns the CPU of @allowed for a worker of @l that asks for @want (see
 * FSOCKET_IOC_SPAWN_LISTEN), or -EINVAL.
 */
static int fsocket_choose_cpu(const struct fsocket_listener *l,
			      const struct cpumask *allowed, int want)
{
	int cpu, best = -EINVAL;

	if (want >= 0) {
		if (want >= nr_cpu_ids || !cpu_active(want) ||
		    !cpumask_test_cpu(want, allowed)) {
			fsocket_log(FSOCKET_ERR,
				    "CPU %d is not online or not allowed to the worker\n",
				    want);
			return -EINVAL;
		}
		return want;
	}
	for_each_cpu_and(cpu, allowed, cpu_active_mask) {
		if (best < 0 || fsocket_cpu_better(l, cpu, best))
			best = cpu;
	}
	return best;
}

/* Returns the claim of current on @l, or NULL. Called under the listener's lock. */
static struct fsocket_claim *fsocket_claim_find(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	list_for_each_entry(claim, &l->claims, in_listener) {
		if (fsocket_claim_is(claim, current->files, current))
			return claim;
	}
	return NULL;
}

/* Starts the worker's local listener, and pins the worker if the module chose its CPU. */
static int fsocket_claim_activate(struct fsocket_claim *claim)
{
	struct fsocket_local *local = claim->local;
	int ret;

	if (claim->active)
		return 0;
	ret = fsocket_local_start(local, NULL);
	if (ret)
		return ret;
	if (claim->pin && !claim->pinned) {
		ret = fsocket_pin(claim->worker, local->cpu);
		if (ret)
			goto err_park;
		claim->pinned = true;
	}
	claim->active = true;
	fsocket_log(FSOCKET_INFO, "port %d: local listener on CPU %d\n",
		    inet_sk(claim->listener->sock->sk)->inet_num, local->cpu);
	return 0;

err_park:
	if (local->claims == 1)
		fsocket_local_park(local);
	return ret;
}

/* Called under the listener's lock. A worker whose local listener fails has the shared queue. */
void fsocket_claims_activate(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	if (fsocket_lone_worker(l))
		return;
	list_for_each_entry(claim, &l->claims, in_listener) {
		if (fsocket_cpu_is_here(claim->local->cpu))
			fsocket_claim_activate(claim);
	}
}

/*
 * Programs of 2014 spawn first and then pin themselves. A worker that does so takes its
 * claim along before it waits on the local listener that it left.
 */
void fsocket_follow_pin(struct fsocket_listener *l)
{
	int cpu = raw_smp_processor_id();
	struct fsocket_local *here = READ_ONCE(l->locals[cpu]);
	struct fsocket_claim *claim;

	if (current->nr_cpus_allowed != 1 || list_empty(&l->claims) ||
	    (here && READ_ONCE(here->worker) == current))
		return;
	mutex_lock(&l->lock);
	claim = fsocket_claim_find(l);
	if (claim && claim->local->cpu != cpu) {
		here = fsocket_local_get(l, cpu);
		if (!IS_ERR(here)) {
			fsocket_claim_leave(claim);
			fsocket_claim_enter(claim, here);
			claim->active = false;
			claim->pin = false;
			fsocket_claims_activate(l);
			fsocket_cover(l);
		}
	}
	mutex_unlock(&l->lock);
}

static struct fsocket_claim *fsocket_claim_new(struct fsocket_claims *file,
					       struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	claim = kzalloc(sizeof(*claim), GFP_KERNEL_ACCOUNT);
	if (!claim)
		return NULL;
	claim->file = file;
	claim->listener = l;
	claim->owner = current->files;
	claim->worker = get_task_struct(current);
	claim->pid = get_task_pid(current, PIDTYPE_PID);
	return claim;
}

/*
 * Makes @claim of current serve, unless current is a lone worker. @claim may be about to be
 * linked. Called under the listener's lock.
 */
static int fsocket_claim_begin(struct fsocket_claim *claim)
{
	const struct fsocket_claim *other;

	if (!fsocket_needs_company(claim))
		return fsocket_claim_activate(claim);
	list_for_each_entry(other, &claim->listener->claims, in_listener) {
		if (other->worker != current)
			return fsocket_claim_activate(claim);
	}
	return 0;
}

/* Called under the lock of @l, which has not ended. */
static int fsocket_claim_spawn(struct fsocket_claims *file, struct fsocket_listener *l,
			       int cpu, bool wanted)
{
	struct fsocket_claim *claim, *old = fsocket_claim_find(l);
	struct fsocket_local *local = fsocket_local_get(l, cpu);
	int ret;

	if (IS_ERR(local))
		return PTR_ERR(local);
	/* The worker has the same claim already. */
	if (old && old->local == local && old->file == file) {
		old->wanted |= wanted;
		return fsocket_claim_begin(old);
	}
	claim = fsocket_claim_new(file, l);
	if (!claim)
		return -ENOMEM;
	claim->pin = current->nr_cpus_allowed != 1 ||
		     !cpumask_test_cpu(cpu, &current->cpus_mask) ||
		     (old && old->pinned);
	claim->wanted = wanted;
	fsocket_claim_enter(claim, local);
	ret = fsocket_claim_begin(claim);
	if (ret) {
		fsocket_claim_undo(claim);
		return ret;
	}
	fsocket_claim_link(claim);
	if (old) {
		fsocket_claim_unlink(old);
		fsocket_claim_undo(old);
	}
	return 0;
}

int fsocket_spawn_allowed(void)
{
	enum fsocket_spawn_mode mode = READ_ONCE(fsocket_spawn_mode);

	if (mode == FSOCKET_SPAWN_OFF) {
		fsocket_log(FSOCKET_ERR, "disabled: enable_listen_spawn=0\n");
		return -EPERM;
	}
	if (mode == FSOCKET_SPAWN_PINNED && current->nr_cpus_allowed != 1) {
		fsocket_log(FSOCKET_ERR,
			    "enable_listen_spawn=1: pin the worker to one CPU first\n");
		return -EPERM;
	}
	return 0;
}

/* Returns the CPU on which current has a claim already, on any listener; -1 if none. */
static int fsocket_my_cpu(struct fsocket_claims *file)
{
	struct fsocket_claim *claim;
	int cpu = -1;

	rcu_read_lock();
	hash_for_each_possible_rcu(fsocket_claims_table, claim, in_table,
				   (unsigned long)current) {
		if (claim->worker == current && claim->file == file) {
			/* The claim's place is freed a grace period after the claim. */
			cpu = READ_ONCE(claim->local)->cpu;
			break;
		}
	}
	rcu_read_unlock();
	return cpu;
}

int fsocket_spawn_on(struct fsocket_claims *file, struct fsocket_listener *l, int want)
{
	struct cpumask *allowed;
	int cpu, ret;

	allowed = kzalloc(cpumask_size(), GFP_KERNEL);
	if (!allowed)
		return -ENOMEM;
	fsocket_pins_allowed(allowed);
	mutex_lock(&l->lock);
	/* A worker serves all its listeners on one CPU, unless the program names one. */
	cpu = want < 0 ? fsocket_my_cpu(file) : -1;
	if (cpu < 0 || !cpu_active(cpu) || !cpumask_test_cpu(cpu, allowed))
		cpu = fsocket_choose_cpu(l, allowed, want);
	ret = cpu;
	if (l->ended)
		ret = -EINVAL;
	if (ret >= 0) {
		ret = fsocket_claim_spawn(file, l, cpu, want >= 0);
		if (!ret)
			fsocket_claims_activate(l);
		fsocket_cover(l);
	}
	mutex_unlock(&l->lock);
	kfree(allowed);
	return ret;
}

/* Returns a listener on which @file has claims of @owner and @worker, with a reference; or NULL. */
static struct fsocket_listener *fsocket_claimed(struct fsocket_claims *file,
						const struct socket *sock, fl_owner_t owner,
						const struct task_struct *worker)
{
	struct fsocket_listener *l = NULL;
	struct fsocket_claim *claim;

	spin_lock(&file->lock);
	list_for_each_entry(claim, &file->list, in_file) {
		if ((!sock || claim->listener->sock == sock) &&
		    fsocket_claim_is(claim, owner, worker)) {
			/* A listener whose last claim is still in a list has not ended. */
			l = claim->listener;
			refcount_inc(&l->refs);
			break;
		}
	}
	spin_unlock(&file->lock);
	return l;
}

static void fsocket_retire_if(struct fsocket_claims *file, const struct socket *sock,
			      fl_owner_t owner, const struct task_struct *worker)
{
	struct fsocket_listener *l;

	while ((l = fsocket_claimed(file, sock, owner, worker))) {
		mutex_lock(&l->lock);
		fsocket_claims_drop(l, file, owner, worker);
		mutex_unlock(&l->lock);
		fsocket_listener_put(l);
	}
}

void fsocket_claims_retire(struct fsocket_claims *file, struct socket *sock)
{
	fsocket_retire_if(file, sock, current->files, current);
}

void fsocket_claims_retire_all(struct fsocket_claims *file, const struct socket *sock,
			       fl_owner_t owner)
{
	fsocket_retire_if(file, sock, owner, NULL);
}

/* @task, which is current, exits. It made its claims itself, so it sees them here. */
static void fsocket_exits(void *unused, struct task_struct *task)
{
	struct fsocket_claim *claim;

	if (hlist_empty(&fsocket_claims_table[hash_min((unsigned long)task,
						       HASH_BITS(fsocket_claims_table))]))
		return;
	rcu_read_lock();
	hash_for_each_possible_rcu(fsocket_claims_table, claim, in_table,
				   (unsigned long)task) {
		if (claim->worker == task)
			fsocket_listener_tidy(claim->listener);
	}
	rcu_read_unlock();
}

int fsocket_claims_init(void)
{
	fsocket_process_exit = fsocket_find_tracepoint("sched_process_exit");
	if (!fsocket_process_exit) {
		pr_err("this kernel has no tracepoint sched_process_exit\n");
		return -EOPNOTSUPP;
	}
	return tracepoint_probe_register(fsocket_process_exit, fsocket_exits, NULL);
}

void fsocket_claims_exit(void)
{
	tracepoint_probe_unregister(fsocket_process_exit, fsocket_exits, NULL);
	tracepoint_synchronize_unregister();
}
