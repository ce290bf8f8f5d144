// SPDX-License-Identifier: GPL-2.0-only
/* The policies of packet redispatch (steer.c), in the order of their ranks. */
#include <linux/export.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/rculist.h>

#include "policy.h"

static LIST_HEAD(fsocket_policies);
static DEFINE_MUTEX(fsocket_policies_mutex);

void fastsocket_policy_register(struct fastsocket_policy *policy)
{
	struct fastsocket_policy *next;

	mutex_lock(&fsocket_policies_mutex);
	list_for_each_entry(next, &fsocket_policies, in_policies) {
		if (next->rank > policy->rank)
			break;
	}
	list_add_tail_rcu(&policy->in_policies, &next->in_policies);
	mutex_unlock(&fsocket_policies_mutex);
}
EXPORT_SYMBOL_GPL(fastsocket_policy_register);

void fastsocket_policy_unregister(struct fastsocket_policy *policy)
{
	mutex_lock(&fsocket_policies_mutex);
	list_del_rcu(&policy->in_policies);
	mutex_unlock(&fsocket_policies_mutex);
	synchronize_net();
}
EXPORT_SYMBOL_GPL(fastsocket_policy_unregister);

int fsocket_policies_ask(const struct fastsocket_flow *flow)
{
	struct fastsocket_policy *policy;
	int cpu;

	list_for_each_entry_rcu(policy, &fsocket_policies, in_policies) {
		cpu = policy->cpu(flow);
		if (cpu >= 0)
			return cpu;
	}
	return -1;
}
