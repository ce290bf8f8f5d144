// SPDX-License-Identifier: GPL-2.0-only
/*
 * Workers: which CPU one gets, its claim on the local listener there, and how
 * it gives that back.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/pid.h>
#include <linux/slab.h>
#include <net/inet_sock.h>

#include "listen.h"
#include "listener.h"
#include "params.h"
#include "resolve.h"

/* Claims on each CPU, of all listeners; under fsocket_mutex. */
static DEFINE_PER_CPU(unsigned int, fsocket_cpu_claims);

/* sched_setaffinity(2), within the bounds of cpusets. */
FSOCKET_KERNEL_FUNCTION(claim, sched_setaffinity);

static void fsocket_claim_enter(struct fsocket_claim *claim,
				struct fsocket_local *local)
{
	claim->local = local;
	local->claims++;
	(*per_cpu_ptr(&fsocket_cpu_claims, local->cpu))++;
	WRITE_ONCE(local->worker, claim->worker);
}

static void fsocket_claim_leave(struct fsocket_claim *claim)
{
	struct fsocket_local *local = claim->local;

	if (local->worker == claim->worker)
		WRITE_ONCE(local->worker, NULL);
	(*per_cpu_ptr(&fsocket_cpu_claims, local->cpu))--;
	if (!--local->claims)
		fsocket_local_park(local);
}

void fsocket_claim_drop(struct fsocket_claim *claim)
{
	fsocket_claim_leave(claim);
	list_del(&claim->in_listener);
	list_del(&claim->in_file);
	put_pid(claim->pid);
	kfree(claim);
}

/*
 * The CPUs that current may choose from. It may have inherited its one CPU by
 * fork: from a parent that we had pinned, when that spawned.
 */
static const struct cpumask *fsocket_allowed(struct fsocket_claims *claims,
					     int want)
{
	struct fsocket_claim *claim;

	if (want != FSOCKET_CPU_AS_PARENT || current->nr_cpus_allowed != 1)
		return &current->cpus_mask;
	list_for_each_entry(claim, &claims->list, in_file) {
		if (claim->pinned && claim->owner != current->files &&
		    cpumask_test_cpu(claim->local->cpu, &current->cpus_mask))
			return &claim->allowed;
	}
	return &current->cpus_mask;
}

/*
 * The CPU of @allowed for a worker that asks for @want; see
 * FSOCKET_IOC_SPAWN_LISTEN.
 */
static int fsocket_choose_cpu(const struct cpumask *allowed, int want)
{
	enum fsocket_spawn_mode mode = fsocket_spawn_mode();
	int cpu, best = -EINVAL;

	if (mode == FSOCKET_SPAWN_OFF) {
		fsocket_log(FSOCKET_ERR, "disabled: enable_listen_spawn=0\n");
		return -EPERM;
	}
	if (mode == FSOCKET_SPAWN_PINNED && current->nr_cpus_allowed != 1) {
		fsocket_log(FSOCKET_ERR,
			    "enable_listen_spawn=1: pin the worker to one CPU first\n");
		return -EPERM;
	}
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
		if (best < 0 || per_cpu(fsocket_cpu_claims, cpu) <
				per_cpu(fsocket_cpu_claims, best))
			best = cpu;
	}
	return best;
}

static struct fsocket_claim *fsocket_claim_find(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	list_for_each_entry(claim, &l->claims, in_listener) {
		if (claim->owner == current->files && claim->worker == current)
			return claim;
	}
	return NULL;
}

/*
 * Programs of 2014 spawn first and pin themselves then: a worker that does so
 * takes its claim along, before it waits on the local listener that it left.
 */
void fsocket_follow_pin(struct fsocket_listener *l)
{
	int cpu = raw_smp_processor_id();
	struct fsocket_local *here = READ_ONCE(l->locals[cpu]);
	struct fsocket_claim *claim;

	if (current->nr_cpus_allowed != 1 || list_empty(&l->claims) ||
	    (here && READ_ONCE(here->worker) == current))
		return;
	mutex_lock(&fsocket_mutex);
	claim = fsocket_claim_find(l);
	if (claim && claim->local->cpu != cpu) {
		here = fsocket_local_get(l, cpu);
		if (!IS_ERR(here)) {
			fsocket_claim_leave(claim);
			fsocket_claim_enter(claim, here);
		}
	}
	mutex_unlock(&fsocket_mutex);
}

static int fsocket_claim_spawn(struct fsocket_claims *claims,
			       struct fsocket_listener *l,
			       const struct cpumask *allowed, int cpu)
{
	struct fsocket_claim *claim, *old = fsocket_claim_find(l);
	struct fsocket_local *local;
	int ret;

	claim = kzalloc(sizeof(*claim), GFP_KERNEL_ACCOUNT);
	if (!claim)
		return -ENOMEM;
	local = fsocket_local_get(l, cpu);
	if (IS_ERR(local)) {
		ret = PTR_ERR(local);
		goto err_free;
	}
	if (current->nr_cpus_allowed != 1 ||
	    !cpumask_test_cpu(cpu, &current->cpus_mask)) {
		cpumask_copy(&claim->allowed, allowed);
		claim->pinned = true;
		ret = fsocket_kernel(claim, sched_setaffinity)(0, cpumask_of(cpu));
		if (ret)
			goto err_park;
	}

	claim->owner = current->files;
	claim->worker = current;
	claim->pid = get_task_pid(current, PIDTYPE_PID);
	list_add(&claim->in_listener, &l->claims);
	list_add(&claim->in_file, &claims->list);
	fsocket_claim_enter(claim, local);
	if (old)
		fsocket_claim_drop(old);
	/* That of @old was this one's too. */
	WRITE_ONCE(local->worker, current);
	fsocket_log(FSOCKET_INFO, "port %d: local listener on CPU %d\n",
		    inet_sk(l->sock->sk)->inet_num, cpu);
	return 0;

err_park:
	if (!local->claims)
		fsocket_local_park(local);
err_free:
	kfree(claim);
	return ret;
}

int fsocket_listen_spawn(struct fsocket_claims *claims, struct socket *sock,
			 int want)
{
	const struct cpumask *allowed;
	struct fsocket_listener *l;
	int cpu, ret;

	mutex_lock(&fsocket_mutex);
	allowed = fsocket_allowed(claims, want);
	cpu = fsocket_choose_cpu(allowed, want);
	if (cpu < 0) {
		ret = cpu;
		goto out;
	}
	l = fsocket_listener_adopt(sock);
	if (IS_ERR(l)) {
		ret = PTR_ERR(l);
		goto out;
	}
	ret = fsocket_claim_spawn(claims, l, allowed, cpu);
out:
	mutex_unlock(&fsocket_mutex);
	return ret;
}

static void fsocket_retire_if(struct fsocket_claims *claims,
			      const struct socket *sock, fl_owner_t owner,
			      const struct task_struct *worker)
{
	struct fsocket_claim *claim, *next;

	mutex_lock(&fsocket_mutex);
	list_for_each_entry_safe(claim, next, &claims->list, in_file) {
		if ((!sock || claim->local->listener->sock == sock) &&
		    (!owner || claim->owner == owner) &&
		    (!worker || claim->worker == worker))
			fsocket_claim_drop(claim);
	}
	mutex_unlock(&fsocket_mutex);
}

void fsocket_listen_retire(struct fsocket_claims *claims, struct socket *sock)
{
	fsocket_retire_if(claims, sock, current->files, current);
}

void fsocket_listen_retire_all(struct fsocket_claims *claims,
			       const struct socket *sock, fl_owner_t owner)
{
	fsocket_retire_if(claims, sock, owner, NULL);
}

int fsocket_claims_init(void)
{
	if (!fsocket_kernel_resolve(claim, sched_setaffinity)) {
		pr_err("this kernel's sched_setaffinity() cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	return 0;
}
