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
 * Reads the flow of @skb, of @net, which may be anything, and changes nothing. Returns false
 * if it is no packet of TCP, or a fragment.
 */
bool fsocket_flow_read(const struct sk_buff *skb, struct net *net,
		       struct fastsocket_flow *flow);

#endif
