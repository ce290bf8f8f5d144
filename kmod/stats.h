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
	/* The same, because their worker was late (steal_after_ms). */
	u64 stolen;
	/*
	 * How often a local listener's first connection had waited for half of
	 * steal_after_ms, or longer.
	 */
	u64 overdue;
	/*
	 * Received packets of TCP, other than SYNs, whose connection was in this
	 * CPU's established table (enable_local_established).
	 */
	u64 established_hit;
	/*
	 * The same, where the connection was found in the kernel's global table
	 * only: it lives on another CPU, had to make room, or was there before.
	 */
	u64 established_remote;
	/* The same, where no connection was found: handshakes, TIME_WAIT, strays. */
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
	/*
	 * Packets handed to this CPU that got memory of its skb pool
	 * (enable_skb_pool), and that did not: too large, or no memory.
	 */
	u64 skb_pool_copy;
	u64 skb_pool_pass;
	/*
	 * Packets to be sent that this CPU's pool had ready (enable_skb_pool), and
	 * those it had none for: the work item had not been there since.
	 */
	u64 skb_pool_send;
	u64 skb_pool_empty;
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

/*
 * Counters of one CPU of the socket pool (enable_socket_pool_size), of the whole
 * machine: every network namespace shows the same. They are the columns behind
 * those of struct fsocket_stats, under the original's names. All count sockets,
 * that is, inodes with their dentries, but for the last two. All only grow, but
 * for sock_in_pool.
 *
 * Summed over the CPUs, sock_alloc_from_slab - sock_free_to_slab are now in the
 * pools, of which sock_in_pool are closed and the others open.
 */
struct fsocket_pool_stats {
	/* Made for a connection, as the pool had none. They enter the pool. */
	u64 sock_alloc_from_slab;
	/*
	 * That the pool let go of: they had long been open when another needed
	 * their place, or the pool was made smaller. Freed once they are closed.
	 */
	u64 sock_free_to_slab;
	/* Used again for another connection. */
	u64 sock_alloc_from_pool;
	/* Found closed in this CPU's pool, after each use once. */
	u64 sock_free_to_pool;
	/* Closed, waiting in this CPU's pool for their next use; from 0 to its size. */
	u64 sock_in_pool;
	/* How often this CPU had to wait for another to access a pool. */
	u64 sock_pool_lock;
	/* Connections accepted through FSOCKET_IOC_ACCEPT while the pool was on. */
	u64 sock_accept_conns;
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
