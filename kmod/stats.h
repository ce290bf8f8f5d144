/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_STATS_H
#define FSOCKET_STATS_H

#include <linux/percpu.h>
#include <linux/types.h>

struct net;

/*
 * Counters of one CPU in one network namespace, shown as the columns of
 * /proc/net/fastsocket in this order. They only grow.
 */
struct fsocket_stats {
	/* Connections a worker accepted, on this CPU, from this CPU's local listener. */
	u64 accept_local;
	/* The same from the shared listener of a socket that has local ones. */
	u64 accept_global;
	/* The same from the local listener of another CPU (the worker moved). */
	u64 accept_remote;
	/* Local listeners that began to receive connections on this CPU. */
	u64 spawn;
	/* Local listeners that ceased to. */
	u64 retire;
	/* Connections moved from a retired local listener to the shared one. */
	u64 moved;
};

int fsocket_stats_init(void);
void fsocket_stats_exit(void);
struct fsocket_stats __percpu *fsocket_stats_of(struct net *net);

#endif
