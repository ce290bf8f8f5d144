// SPDX-License-Identifier: GPL-2.0-only
/*
 * Brings a listener up to date after a worker has ended, a CPU has gone or come, or a
 * CPU without a worker has handled SYNs. A work item does this, since only tasks that
 * the listener's users may make wait take the listener's lock.
 */
#include <linux/cpumask.h>

#include "hotplug.h"
#include "listener.h"

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
