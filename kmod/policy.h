/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_POLICY_H
#define FSOCKET_POLICY_H

#include "fastsocket_policy.h"

struct net;
struct sk_buff;

/*
 * Returns the CPU that the first policy with an opinion names, or -1. Called under
 * rcu_read_lock().
 */
int fsocket_policies_ask(const struct fastsocket_flow *flow);
/*
 * Reads the flow of @skb, which belongs to @net, and changes nothing. @skb may be any
 * packet. Returns false if it is not a packet of TCP, or is a fragment.
 */
bool fsocket_flow_read(const struct sk_buff *skb, struct net *net,
		       struct fastsocket_flow *flow);

#endif
