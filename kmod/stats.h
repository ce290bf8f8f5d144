/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_STATS_H
#define FSOCKET_STATS_H

#include <linux/percpu.h>
#include <linux/types.h>

struct net;

/*
 * The counters of one CPU in one network namespace are the columns of
 * /proc/net/fastsocket, in this order. They never decrease. docs/reference.md is
 * made from these comments.
 */
struct fsocket_stats {
	/* Connections that accept() took on this CPU from this CPU's local listener. */
	u64 accept_local;
	/*
	 * Connections that accept() took on this CPU from the shared queue of a listening
	 * socket that has local listeners.
	 */
	u64 accept_global;
	/*
	 * Connections that accept() took on this CPU from the local listener of another
	 * CPU, because the worker has moved or the other worker was late.
	 */
	u64 accept_remote;
	/*
	 * Connections that accept() took on this CPU from the local listener of a CPU without
	 * worker.
	 */
	u64 accept_covered;
	/* Local listeners of this CPU that joined the SO_REUSEPORT group of their port. */
	u64 spawn;
	/* Local listeners of this CPU that left the SO_REUSEPORT group of their port. */
	u64 retire;
	/* Connections moved from the queue of a retired local listener to the shared queue. */
	u64 moved;
	/*
	 * Connections moved from the queue of a local listener to the shared queue because
	 * their worker had not accepted them within steal_after_ms.
	 */
	u64 stolen;
	/*
	 * Checks of a local listener that found its first connection waiting for half of
	 * steal_after_ms or longer.
	 */
	u64 overdue;
	/*
	 * Received TCP packets other than SYNs whose connection was in the established table
	 * of the receiving CPU (enable_local_established).
	 */
	u64 established_hit;
	/*
	 * Received TCP packets other than SYNs whose connection was in the kernel's global
	 * table only: it belongs to another CPU, was evicted, or is older than the table.
	 */
	u64 established_remote;
	/*
	 * Received TCP packets other than SYNs without an established connection: packets of
	 * handshakes, of connections in TIME_WAIT, and of unknown connections.
	 */
	u64 established_miss;
	/* Connections added to the established table of this CPU. */
	u64 established_add;
	/*
	 * Connections removed from the established table of this CPU. The sum of
	 * established_add less that of established_del is the number in the tables.
	 */
	u64 established_del;
	/*
	 * Received packets that took the route cached in their connection's socket
	 * (enable_direct_tcp).
	 */
	u64 direct_tcp;
	/*
	 * Received TCP packets for which a policy chose the CPU that received them
	 * (enable_rps_framework).
	 */
	u64 steer_local;
	/* Received TCP packets for which a policy chose another CPU, to which they were queued. */
	u64 steer_remote;
	/*
	 * Received TCP packets queued to the CPU of the flow's earlier packets, which were
	 * still queued there, instead of the CPU that the policy chose.
	 */
	u64 steer_kept;
	/* Received TCP packets for which no policy chose a CPU. */
	u64 steer_pass;
	/* Received TCP packets dropped because the queue of the chosen CPU was full. */
	u64 steer_drop;
	/*
	 * Redispatched packets whose data was copied to a page of the receiving CPU's pool
	 * (enable_skb_pool=1 or 3).
	 */
	u64 skb_pool_copy;
	/*
	 * Redispatched packets that kept their memory, because they were too large or the
	 * pool had no page (enable_skb_pool=1 or 3).
	 */
	u64 skb_pool_pass;
	/* Packets to send that came from the pool of this CPU (enable_skb_pool=2 or 3). */
	u64 skb_pool_send;
	/*
	 * Packets to send that the kernel allocated because the pool of this CPU was empty:
	 * the work item that refills it had not run since (enable_skb_pool=2 or 3).
	 */
	u64 skb_pool_empty;
	/* Active connections that got a source port of this CPU (enable_receive_flow_deliver). */
	u64 rfd_port;
	/*
	 * Active connections whose source port the kernel chose, because no port of this CPU
	 * was free (enable_receive_flow_deliver). Redispatch delivers their packets to this CPU
	 * all the same; a NIC's filters do not.
	 */
	u64 rfd_exhausted;
	/*
	 * System calls of epoll that the library saved, less those that it made in their
	 * stead (enable_fast_epoll). Processes report them by the hundred and when they
	 * exit, and the CPU of the report counts them; a killed process loses the rest.
	 */
	u64 epoll_saved;
};

/*
 * The counters of one CPU's socket pool (enable_socket_pool_size) are the columns
 * behind those of struct fsocket_stats, under the original's names. They are of the
 * whole machine, so every network namespace shows the same. A socket is an inode with
 * its dentry here. All but sock_in_pool never decrease. Summed over the CPUs,
 * sock_alloc_from_slab less sock_free_to_slab is the number of sockets in the pools,
 * closed (sock_in_pool) and open ones.
 */
struct fsocket_pool_stats {
	/* Sockets allocated for a connection because the pool had no closed one. */
	u64 sock_alloc_from_slab;
	/*
	 * Sockets that the pool released: others needed their place while they were open,
	 * or the pool was made smaller. The kernel frees them once they are closed.
	 */
	u64 sock_free_to_slab;
	/* Sockets of the pool that were used again for another connection. */
	u64 sock_alloc_from_pool;
	/* Sockets of this CPU's pool that were found closed, counted once for each use. */
	u64 sock_free_to_pool;
	/* Closed sockets in this CPU's pool at the moment; from 0 to its size. */
	u64 sock_in_pool;
	/* Times that this CPU had to wait for another CPU's lock of a pool. */
	u64 sock_pool_lock;
	/* Connections accepted through FSOCKET_IOC_ACCEPT while the pool was on. */
	u64 sock_accept_conns;
};

/* Counts one event in network namespace @net on this CPU. */
#define fsocket_count(net, counter)	\
	this_cpu_inc(fsocket_stats_of(net)->counter)

/* Counts @n events in network namespace @net on this CPU. */
#define fsocket_add(net, counter, n)	\
	this_cpu_add(fsocket_stats_of(net)->counter, n)

int fsocket_stats_init(void);
void fsocket_stats_exit(void);
struct fsocket_stats __percpu *fsocket_stats_of(struct net *net);

#endif
