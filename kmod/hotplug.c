// SPDX-License-Identifier: GPL-2.0-only
/* Keeps the set of CPUs that are there, and tidies all listeners when one goes or comes. */
#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>

#include "hotplug.h"
#include "listener.h"

/*
 * CPUs between their online and their offline callback. cpu_online_mask does not serve:
 * it may still have a CPU when the work item runs that the offline callback has queued.
 */
static struct cpumask fsocket_cpus;

static enum cpuhp_state fsocket_cpuhp_state;

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
 * No SYN is handled on an offline CPU. One that is handled on a CPU without local
 * listener may go to any; the worker meanwhile runs on another CPU.
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

int fsocket_hotplug_init(void)
{
	int ret = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "net/fastsocket:listen",
				    fsocket_listen_cpu_online, fsocket_listen_cpu_offline);

	if (ret < 0)
		return ret;
	fsocket_cpuhp_state = ret;
	return 0;
}

void fsocket_hotplug_exit(void)
{
	cpuhp_remove_state_nocalls(fsocket_cpuhp_state);
}
