/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Policies of packet redispatch: which CPU handles a received TCP packet.
 * For modules; kmod/examples has one.
 *
 * With enable_rps_framework=1 every packet of TCP over IPv4 or IPv6 that
 * arrives at any interface is shown to the registered policies, in the order of
 * their rank. The first that names a CPU decides; without one the packet is
 * handled where it is.
 */
#ifndef FASTSOCKET_POLICY_H
#define FASTSOCKET_POLICY_H

#include <linux/in6.h>
#include <linux/list.h>
#include <linux/types.h>

struct net_device;

/* A received packet: its flow, as seen from here. */
struct fastsocket_flow {
	/* Where it arrived; for its network namespace too. */
	struct net_device *dev;
	/* inet_ehashfn() or inet6_ehashfn(): sk_hash of its connection, if any. */
	u32 hash;
	/* Ports in host order. */
	u16 sport;
	u16 dport;
	/* Addresses: addr4 where !v6. */
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
	 * The CPU that is to handle the packet, or a negative number: no opinion.
	 * A CPU that is not online counts as no opinion. Called in softirq, under
	 * rcu_read_lock(), on many CPUs at once; must not sleep.
	 */
	int (*cpu)(const struct fastsocket_flow *flow);
	/* The framework's. */
	struct list_head in_policies;
};

/* Process context; never fails. @policy has to stay until it is unregistered. */
void fastsocket_policy_register(struct fastsocket_policy *policy);

/* On return @policy is not in use any more; packets it steered may still wait. */
void fastsocket_policy_unregister(struct fastsocket_policy *policy);

#endif
