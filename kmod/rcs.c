// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive CPU Selection: packets of a connection go to the CPU where the
 * program that uses it runs. What the kernel's RFS does, as a policy of packet
 * redispatch: without rps_cpus, rps_flow_cnt and rps_sock_flow_entries.
 *
 * "Runs" means: has sent there from a system call. Each packet that a socket
 * sends in process context leaves the CPU under the connection's hash in a
 * table without locks; a clash of hashes costs locality, nothing else.
 */
#include <linux/mm.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/smp.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "fastsocket_policy.h"
#include "rcs.h"

/* A power of two; and 256 KiB. */
#define FSOCKET_OWNERS	65536

/* By hash: the hash's upper bits, and the CPU + 1 in its lower 16. 0: none. */
static u32 *fsocket_owners;

static u32 fsocket_owner_key(u32 hash)
{
	return hash & ~(FSOCKET_OWNERS - 1);
}

static unsigned int fsocket_sent(void *priv, struct sk_buff *skb,
				 const struct nf_hook_state *state)
{
	const struct sock *sk = state->sk;
	u32 *owner, value;

	if (!in_task() || !sk || !sk_fullsock(sk) || sk->sk_protocol != IPPROTO_TCP)
		return NF_ACCEPT;
	owner = &fsocket_owners[sk->sk_hash & (FSOCKET_OWNERS - 1)];
	value = fsocket_owner_key(sk->sk_hash) | (raw_smp_processor_id() + 1);
	if (READ_ONCE(*owner) != value)
		WRITE_ONCE(*owner, value);
	return NF_ACCEPT;
}

static const struct nf_hook_ops fsocket_sent_ops[] = {
	{
		.hook = fsocket_sent,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = NF_IP_PRI_LAST,
	},
#if IS_ENABLED(CONFIG_IPV6)
	{
		.hook = fsocket_sent,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_LOCAL_OUT,
		.priority = NF_IP6_PRI_LAST,
	},
#endif
};

static int __net_init fsocket_sent_init(struct net *net)
{
	return nf_register_net_hooks(net, fsocket_sent_ops,
				     ARRAY_SIZE(fsocket_sent_ops));
}

static void __net_exit fsocket_sent_exit(struct net *net)
{
	nf_unregister_net_hooks(net, fsocket_sent_ops,
				ARRAY_SIZE(fsocket_sent_ops));
}

static struct pernet_operations fsocket_sent_pernet = {
	.init = fsocket_sent_init,
	.exit = fsocket_sent_exit,
};

static int fsocket_rcs_cpu(const struct fastsocket_flow *flow)
{
	u32 owner = READ_ONCE(fsocket_owners[flow->hash & (FSOCKET_OWNERS - 1)]);

	if (fsocket_owner_key(owner) != fsocket_owner_key(flow->hash))
		return -1;
	return (int)(owner & (FSOCKET_OWNERS - 1)) - 1;
}

static struct fastsocket_policy fsocket_rcs_policy = {
	.name = "RCS",
	.rank = 200,
	.cpu = fsocket_rcs_cpu,
};

int fsocket_rcs_enable(bool on)
{
	int ret;

	if (on) {
		fsocket_owners = kvcalloc(FSOCKET_OWNERS, sizeof(*fsocket_owners),
					  GFP_KERNEL);
		if (!fsocket_owners)
			return -ENOMEM;
		ret = register_pernet_subsys(&fsocket_sent_pernet);
		if (ret) {
			kvfree(fsocket_owners);
			return ret;
		}
		fastsocket_policy_register(&fsocket_rcs_policy);
		return 0;
	}
	fastsocket_policy_unregister(&fsocket_rcs_policy);
	unregister_pernet_subsys(&fsocket_sent_pernet);
	synchronize_net();
	kvfree(fsocket_owners);
	return 0;
}
