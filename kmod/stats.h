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
	/*
	 * Received packets of TCP, other than SYNs, whose connection was in this
	 * CPU's established table (enable_local_established).
	 */
	u64 established_hit;
	/* The same, where it was not: the kernel's global table was asked. */
	u64 established_miss;
	/*
	 * Connections that entered an established table, and that left one, on
	 * this CPU. The sums of both differ by what is in the tables.
	 */
	u64 established_add;
	u64 established_del;
	/* Received packets that took their connection's route (enable_direct_tcp). */
	u64 direct_tcp;
	/* Received packets that a policy wanted here, where they were (enable_rps_framework). */
	u64 steer_local;
	/* The same, handed by this CPU to another. */
	u64 steer_remote;
	/* The same, handed to where earlier packets of the flow still waited. */
	u64 steer_kept;
	/* Received packets of TCP on which no policy had an opinion. */
	u64 steer_pass;
	/* Received packets lost, as the queue of the CPU they were handed to was full. */
	u64 steer_drop;
	/* Source ports chosen for active connections (enable_receive_flow_deliver). */
	u64 rfd_port;
	/* Active connections left to the kernel's choice, as no port for the CPU was free. */
	u64 rfd_exhausted;
	/*
	 * System calls of epoll that the library spared (enable_fast_epoll), less
	 * those it made in their stead; by the CPU that reported them, which it
	 * does by the hundred and when it ends (a killed process loses the rest).
	 */
	u64 epoll_saved;
};

/* Counts an event of @net on this CPU. */
#define fsocket_count(net, counter)	\
	this_cpu_inc(fsocket_stats_of(net)->counter)

/* Counts @n events. */
#define fsocket_add(net, counter, n)	\
	this_cpu_add(fsocket_stats_of(net)->counter, n)

int fsocket_stats_init(void);
void fsocket_stats_exit(void);
struct fsocket_stats __percpu *fsocket_stats_of(struct net *net);

#endif
