// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive CPU Selection: redispatch delivers the packets of a connection to the CPU
 * where its program runs. The kernel's RFS does the same; this is a policy of
 * redispatch, so it needs no rps_cpus, rps_flow_cnt and rps_sock_flow_entries.
 *
 * A program runs, for this policy, where it has last sent in a system call. For each
 * packet that a socket sends in process context, a LOCAL_OUT hook stores the CPU under
 * the connection's hash in a table without locks. If the hashes of two connections are
 * the same, a packet may go to the wrong CPU, which costs locality only.
 */
#include <linux/mm.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/smp.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "fastsocket_policy.h"
#include "flowmap.h"
#include "rcs.h"

/* The CPU where the program has last sent, by the connection's hash. */
static u32 *fsocket_owners;

static unsigned int fsocket_sent(void *priv, struct sk_buff *skb,
				 const struct nf_hook_state *state)
{
	const struct sock *sk = state->sk;

	if (!in_task() || !sk || !sk_fullsock(sk) || !sk_is_tcp(sk))
		return NF_ACCEPT;
	fsocket_flowmap_set(fsocket_owners, sk->sk_hash, raw_smp_processor_id());
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
	return fsocket_flowmap_get(fsocket_owners, flow->hash);
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
		fsocket_owners = fsocket_flowmap_alloc();
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
