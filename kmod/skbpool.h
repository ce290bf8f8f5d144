/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_SKBPOOL_H
#define FSOCKET_SKBPOOL_H

#include <linux/skbuff.h>

/* Applies enable_skb_pool; process context, one caller at a time. */
int fsocket_skbpool_enable(bool on);

/* Frees the pools, which are off, when no packet is handed over any more. */
void fsocket_skbpool_exit(void);

/*
 * Returns the skb to be handled in place of @skb, which another CPU has handed to this
 * one: a copy in this CPU's pool, if there is a pool and @skb fits, else @skb itself.
 * Called in the queue's NAPI poll, of which only one runs at a time for @cpu.
 */
struct sk_buff *fsocket_skbpool_exchange(struct net *net, int cpu,
					 struct sk_buff *skb);

/* Frees the skbs of this CPU that other CPUs have sent back; called in softirq. */
void fsocket_skbpool_reap(void);

/* Does the same for all CPUs; in process context. */
void fsocket_skbpool_reap_all(void);

#endif
