// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPUs that handle SYNs and have no worker.
 *
 * A SYN that is handled on a CPU without local listener goes by hash to any socket of
 * the group: to another CPU's worker, or to the shared queue, which wakes all workers.
 * So such a CPU also gets a local listener, called a guest, if there are two workers or
 * more. The socket of a guest has the wait queue of another local listener, its host. A
 * connection that arrives there wakes the worker of the host and no other. That worker
 * takes the oldest connection of its own queue and those of its guests, and the host's
 * timer looks at them all. Other workers help if it is late (accept.c).
 *
 * Guests are made on demand, since the kernel compares the sockets of a group one after
 * the other for each SYN. sk_incoming_cpu of a new connection is the CPU that has
 * handled its ACK. accept() compares it with the CPU of the queue, and sets a bit for a
 * CPU without local listener. The bit is set once and stays, so a CPU on which only
 * ACKs are handled (RPS, SYN cookies) costs one socket at most, and no work per
 * connection.
 *
 * A bitmap of the host names the host and its guests. The host's worker and timer read
 * it without a lock; the local listeners that it names live as long as their listener.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/sched/mm.h>
#include <linux/topology.h>
#include <net/inet_sock.h>

#include "hotplug.h"
#include "listener.h"
#include "log.h"

void fsocket_cover_want(struct fsocket_listener *l, int cpu)
{
	struct fsocket_local *local;

	if (cpu < 0 || cpu >= nr_cpu_ids || test_bit(cpu, l->syn_cpus))
		return;
	local = fsocket_local_at(l, cpu);
	if (local && READ_ONCE(local->attached))
		return;
	if (!test_and_set_bit(cpu, l->syn_cpus))
		fsocket_listener_tidy(l);
}

/* Returns whether the worker of @claim may have guests. */
static bool fsocket_cover_may(const struct fsocket_claim *claim)
{
	return claim->active && claim->local->attached && !fsocket_claim_is_dead(claim);
}

/* Returns whether @l has two workers or more; a lone worker is left alone. */
static bool fsocket_cover_needed(struct fsocket_listener *l)
{
	const struct task_struct *first = NULL;
	struct fsocket_claim *claim;

	/* Changes of the list also take the listener's lock, which we hold. */
	list_for_each_entry(claim, &l->claims, in_listener) {
		if (!fsocket_cover_may(claim))
			continue;
		if (first && first != claim->worker)
			return true;
		first = claim->worker;
	}
	return false;
}

/*
 * Returns how far @host is from @cpu, in halves of a guest: a sibling of the same core
 * is preferred to a host with as many guests, and a host of another NUMA node is chosen
 * only if it has two fewer.
 */
static unsigned int fsocket_cover_distance(int cpu, int host)
{
	if (cpumask_test_cpu(host, topology_sibling_cpumask(cpu)))
		return 0;
	return cpu_to_node(cpu) == cpu_to_node(host) ? 1 : 4;
}

/* Returns the host for @cpu, or NULL; @now is its present host, if any. */
static struct fsocket_local *fsocket_cover_choose(struct fsocket_listener *l, int cpu,
						  const struct fsocket_local *now)
{
	struct fsocket_local *host, *best = NULL;
	unsigned int cost, least = UINT_MAX;
	struct fsocket_claim *claim;

	list_for_each_entry(claim, &l->claims, in_listener) {
		if (!fsocket_cover_may(claim))
			continue;
		host = claim->local;
		cost = 2 * (host->guests - (host == now)) +
		       fsocket_cover_distance(cpu, host->cpu);
		if (cost < least || (cost == least && host == now)) {
			best = host;
			least = cost;
		}
	}
	return best;
}

static void fsocket_cover_cpu(struct fsocket_listener *l, int cpu, bool needed)
{
	struct fsocket_local *local = l->locals[cpu], *host = NULL;

	if (local && local->claims)
		return;
	if (!fsocket_cpu_is_here(cpu)) {
		/* Connections ask for this CPU again when it is back. */
		clear_bit(cpu, l->syn_cpus);
	} else if (needed) {
		host = fsocket_cover_choose(l, cpu, local ? local->host : NULL);
	}
	if (!host) {
		if (local)
			fsocket_local_park(local);
		return;
	}
	local = fsocket_local_get(l, cpu);
	/* Without memory the CPU stays as it is until claims come or go. */
	if (IS_ERR(local) || (local->host == host && local->attached) ||
	    fsocket_local_start(local, host))
		return;
	fsocket_log(FSOCKET_INFO, "port %d: CPU %d has no worker; that of CPU %d serves it\n",
		    inet_sk(l->sock->sk)->inet_num, cpu, host->cpu);
}

void fsocket_cover(struct fsocket_listener *l)
{
	struct mem_cgroup *charged;
	bool needed;
	int cpu;

	if (l->ended || bitmap_empty(l->syn_cpus, nr_cpu_ids))
		return;
	needed = fsocket_cover_needed(l);
	/* A worker of another memory cgroup may call this. */
	charged = set_active_memcg(fsocket_memcg_of(l->sock->sk));
	for_each_set_bit(cpu, l->syn_cpus, nr_cpu_ids)
		fsocket_cover_cpu(l, cpu, needed);
	set_active_memcg(charged);
}
