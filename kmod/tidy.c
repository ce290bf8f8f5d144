// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a listener has to do because a worker has ended, or a CPU has gone or come, or
 * handles SYNs without a worker. A work does it, since the listener's lock is for those only
 * who may be made to wait by its users.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>

#include "listener.h"

/*
 * CPUs between their online and their offline callback. Not cpu_online_mask: that still has
 * a CPU when the work runs which the offline callback has queued.
 */
static struct cpumask fsocket_cpus;

static enum cpuhp_state fsocket_cpuhp_state;

/* Parks the local listeners of CPUs that have gone, and lets those that are back begin again. */
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

void fsocket_tidy_work(struct work_struct *work)
{
	struct fsocket_listener *l =
		container_of(work, struct fsocket_listener, tidy_work);

	mutex_lock(&l->lock);
	if (!l->ended) {
		fsocket_claims_drop_dead(l);
		fsocket_follow_cpus(l);
	}
	fsocket_cover(l);
	mutex_unlock(&l->lock);
	fsocket_listener_put(l);
}

void fsocket_listener_tidy(struct fsocket_listener *l)
{
	/* One that a claim of an ending task has led to may be on its way out. */
	if (!refcount_inc_not_zero(&l->refs))
		return;
	if (!queue_work(fsocket_wq, &l->tidy_work))
		fsocket_listener_put(l);
}

static void fsocket_tidy_all(void)
{
	struct fsocket_listener *l;

	mutex_lock(&fsocket_listeners_mutex);
	list_for_each_entry(l, &fsocket_listeners, in_all)
		fsocket_listener_tidy(l);
	mutex_unlock(&fsocket_listeners_mutex);
}

static int fsocket_listen_cpu_online(unsigned int cpu)
{
	cpumask_set_cpu(cpu, &fsocket_cpus);
	fsocket_tidy_all();
	return 0;
}

/*
 * No SYN is handled on an offline CPU, but one handled on a CPU without local
 * listener may be given to any; the worker meanwhile runs elsewhere.
 */
static int fsocket_listen_cpu_offline(unsigned int cpu)
{
	cpumask_clear_cpu(cpu, &fsocket_cpus);
	fsocket_tidy_all();
	return 0;
}

bool fsocket_cpu_is_here(int cpu)
{
	return cpumask_test_cpu(cpu, &fsocket_cpus);
}

int fsocket_tidy_init(void)
{
	int ret = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "net/fastsocket:listen",
				    fsocket_listen_cpu_online, fsocket_listen_cpu_offline);

	if (ret < 0)
		return ret;
	fsocket_cpuhp_state = ret;
	return 0;
}

void fsocket_tidy_exit(void)
{
	cpuhp_remove_state_nocalls(fsocket_cpuhp_state);
}
