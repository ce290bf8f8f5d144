// SPDX-License-Identifier: GPL-2.0-only
/* The policies of packet redispatch (steer.c), in the order of their ranks. */
#include <linux/export.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/rculist.h>
#include <linux/skbuff.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>

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

bool fsocket_flow_read(const struct sk_buff *skb, struct net *net,
		       struct fastsocket_flow *flow)
{
	int offset = skb_network_offset(skb);
	const __be16 *ports;
	__be16 ports_buf[2];

	flow->dev = skb->dev;
	if (skb->protocol == htons(ETH_P_IP)) {
		struct iphdr buf;
		const struct iphdr *ip;

		ip = skb_header_pointer(skb, offset, sizeof(buf), &buf);
		if (!ip || ip->version != 4 || ip->ihl < 5 ||
		    ip->protocol != IPPROTO_TCP || ip_is_fragment(ip))
			return false;
		flow->v6 = false;
		flow->saddr4 = ip->saddr;
		flow->daddr4 = ip->daddr;
		offset += ip->ihl * 4;
#if IS_ENABLED(CONFIG_IPV6)
	} else if (skb->protocol == htons(ETH_P_IPV6)) {
		struct ipv6hdr buf;
		const struct ipv6hdr *ip;

		ip = skb_header_pointer(skb, offset, sizeof(buf), &buf);
		if (!ip || ip->version != 6 || ip->nexthdr != IPPROTO_TCP)
			return false;
		flow->v6 = true;
		flow->saddr6 = ip->saddr;
		flow->daddr6 = ip->daddr;
		offset += sizeof(buf);
#endif
	} else {
		return false;
	}

	ports = skb_header_pointer(skb, offset, sizeof(ports_buf), ports_buf);
	if (!ports)
		return false;
	flow->sport = ntohs(ports[0]);
	flow->dport = ntohs(ports[1]);
#if IS_ENABLED(CONFIG_IPV6)
	if (flow->v6) {
		flow->hash = inet6_ehashfn(net, &flow->daddr6, flow->dport,
					   &flow->saddr6, ports[0]);
		return true;
	}
#endif
	flow->hash = inet_ehashfn(net, flow->daddr4, flow->dport, flow->saddr4,
				  ports[0]);
	return true;
}
