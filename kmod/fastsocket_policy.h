/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policies of packet redispatch: a policy chooses the CPU that handles a received TCP
 * packet. The interface is for modules; kmod/examples has one.
 *
 * With enable_rps_framework=1 every packet of TCP over IPv4 or IPv6 that arrives at any
 * interface is shown to the registered policies, in the order of their rank. The first
 * that names a CPU decides. If none does, the packet stays on the CPU that received it.
 */
#ifndef FASTSOCKET_POLICY_H
#define FASTSOCKET_POLICY_H

#include <linux/in6.h>
#include <linux/list.h>
#include <linux/types.h>

struct net_device;

/* A received packet: its flow, with this host as the local side. */
struct fastsocket_flow {
	/* The interface where it arrived, which also gives its network namespace. */
	struct net_device *dev;
	/* inet_ehashfn() or inet6_ehashfn(): sk_hash of its connection, if any. */
	u32 hash;
	/* Ports in host byte order. */
	u16 sport;
	u16 dport;
	/* Addresses: saddr6 and daddr6 if v6 is set, else saddr4 and daddr4. */
	bool v6;
	union {
		__be32 saddr4;
		struct in6_addr saddr6;
	};
	union {
		__be32 daddr4;
		struct in6_addr daddr6;
	};
};

struct fastsocket_policy {
	const char *name;
	/*
	 * Lower ranks are asked first. RFD has 100 (enable_receive_flow_deliver),
	 * RCS 200 (enable_receive_cpu_selection).
	 */
	int rank;
	/*
	 * Returns the CPU that is to handle the packet, or a negative number for no
	 * opinion. A CPU that is not online counts as no opinion. Called in softirq,
	 * under rcu_read_lock(), on many CPUs at once; must not sleep.
	 */
	int (*cpu)(const struct fastsocket_flow *flow);
	/* Used by the framework. */
	struct list_head in_policies;
};

/* Called in process context; never fails. @policy has to stay until it is unregistered. */
void fastsocket_policy_register(struct fastsocket_policy *policy);

/* On return @policy is no longer in use; packets for which it chose a CPU may still wait. */
void fastsocket_policy_unregister(struct fastsocket_policy *policy);

#endif
