// SPDX-License-Identifier: GPL-2.0-only
/*
 * The local established table, and Direct-TCP.
 *
 * Each CPU has a table of the connections that became established on it. A hook at
 * the end of PRE_ROUTING looks up each received TCP packet in the table of its CPU.
 * The kernel's early demultiplexing (tcp_v4_early_demux()) comes next and skips a
 * packet that has its socket already. If the connection is not in the table of this
 * CPU, the hook looks it up in the kernel's global table, as early demultiplexing
 * would: the connection was established on another CPU or before the table was
 * switched on, or it was evicted. Sockets in handshakes and in TIME_WAIT are in the
 * global table only.
 *
 * The table holds no references. The kernel's tracepoint inet_sock_set_state reports,
 * with the socket locked, that a socket becomes TCP_ESTABLISHED, when it is added, and
 * that it becomes TCP_CLOSE, as each socket does before it is freed, when it is
 * removed. A socket has no pointer to this module, so the module can be unloaded while
 * connections are open. Sockets are SLAB_TYPESAFE_BY_RCU: a pointer read from the table
 * in an RCU read section points to a TCP socket, but its memory may have been used
 * again for another one. The lookup therefore compares once more when it holds a
 * reference (as __inet_lookup_established() does).
 *
 * A table is a set-associative cache without locks: its own CPU fills slots, with
 * bottom halves off; any CPU empties them, by cmpxchg().
 *
 * Direct-TCP uses the route cached in the connection's socket, while it is valid,
 * instead of a routing decision. The kernel itself has done so since 3.6 where the
 * sysctl tcp_early_demux is on; enable_direct_tcp does it whatever that sysctl is.
 * dst_check() notices changes of routes, addresses and policies.
 */
#include <linux/mm.h>
#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/rcupdate.h>
#include <linux/tcp.h>
#include <linux/tracepoint.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/net_namespace.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "established.h"
#include "resolve.h"
#include "stats.h"
#include "trace.h"

/* For 16,384 connections per CPU, in 256 KiB. A power of two. */
#define FSOCKET_SETS	4096
#define FSOCKET_WAYS	4

struct fsocket_slot {
	struct sock *sk;
	/* Compared before @sk is read; may still be the hash of the previous socket. */
	u32 hash;
};

/* One cache line. */
struct fsocket_set {
	struct fsocket_slot way[FSOCKET_WAYS];
};

static DEFINE_PER_CPU(struct fsocket_set *, fsocket_table);

/* Whether enable_local_established and enable_direct_tcp are on. */
static bool fsocket_local, fsocket_direct;

static struct tracepoint *fsocket_established_tracepoint;

static struct fsocket_set *fsocket_set_of(int cpu, u32 hash)
{
	return &per_cpu(fsocket_table, cpu)[hash & (FSOCKET_SETS - 1)];
}

/*
 * Puts @sk, or NULL, into @slot. Returns false if the socket in @slot is being
 * removed, or was removed meanwhile. A replaced socket is counted as removed in its
 * network namespace. That needs a reference, since a socket that has been removed may
 * be freed and its memory used again at once. If cmpxchg() then still finds it in
 * @slot, it was not removed before, because only this CPU fills slots of this table.
 */
static bool fsocket_slot_replace(struct fsocket_slot *slot, struct sock *sk)
{
	struct sock *old = READ_ONCE(slot->sk);
	bool done;

	if (old && !refcount_inc_not_zero(&old->sk_refcnt))
		return false;
	if (sk)
		WRITE_ONCE(slot->hash, sk->sk_hash);
	done = cmpxchg(&slot->sk, old, sk) == old;
	if (done && old)
		fsocket_count(sock_net(old), established_del);
	if (old)
		sock_put(old);
	return done;
}

static void fsocket_table_add(struct sock *sk)
{
	struct fsocket_slot *slot, *free = NULL;
	struct fsocket_set *set;
	int i;

	local_bh_disable();
	rcu_read_lock();
	set = fsocket_set_of(smp_processor_id(), sk->sk_hash);
	for (i = 0; i < FSOCKET_WAYS && !free; i++) {
		if (!READ_ONCE(set->way[i].sk))
			free = &set->way[i];
	}
	/* A full set evicts any of its connections, which the global table still has. */
	slot = free ?: &set->way[jiffies & (FSOCKET_WAYS - 1)];
	/* Fails if the socket in the slot is removed meanwhile; then the slot is empty. */
	if (fsocket_slot_replace(slot, sk) || fsocket_slot_replace(slot, sk))
		fsocket_count(sock_net(sk), established_add);
	rcu_read_unlock();
	local_bh_enable();
}

static bool fsocket_table_del_from(int cpu, struct sock *sk)
{
	struct fsocket_set *set = fsocket_set_of(cpu, sk->sk_hash);
	int i;

	for (i = 0; i < FSOCKET_WAYS; i++) {
		if (READ_ONCE(set->way[i].sk) == sk &&
		    cmpxchg(&set->way[i].sk, sk, NULL) == sk)
			return true;
	}
	return false;
}

static void fsocket_table_del(struct sock *sk)
{
	/* The CPU of the last packet is almost always the one whose table has @sk. */
	int home = READ_ONCE(sk->sk_incoming_cpu), cpu;
	bool found;

	found = home >= 0 && home < nr_cpu_ids && cpu_possible(home) &&
		fsocket_table_del_from(home, sk);
	if (!found) {
		for_each_possible_cpu(cpu) {
			found = fsocket_table_del_from(cpu, sk);
			if (found)
				break;
		}
	}
	if (found)
		fsocket_count(sock_net(sk), established_del);
}

/* The kernel calls this at each change of state of an inet socket; TCP sockets are locked. */
static void fsocket_established_changes(void *unused, const struct sock *sk,
					const int old, const int new)
{
	/*
	 * Kernel sockets hold no reference to their network namespace, so its counters may
	 * be freed before they are.
	 */
	if (!sk_is_tcp(sk) || !sk->sk_net_refcnt)
		return;
	if (new == TCP_ESTABLISHED && READ_ONCE(fsocket_local))
		fsocket_table_add((struct sock *)sk);
	else if (new == TCP_CLOSE && old != TCP_SYN_SENT &&
		 old != TCP_SYN_RECV && old != TCP_LISTEN && old != TCP_CLOSE)
		fsocket_table_del((struct sock *)sk);
}

/* The addresses, ports and interfaces of a received packet, of either IP version. */
struct fsocket_tuple {
	struct net *net;
	bool v6;
	union {
		const struct iphdr *ip4;
		const struct ipv6hdr *ip6;
	};
	const struct tcphdr *th;
	int dif, sdif;
	u32 hash;
};

static bool fsocket_match(const struct fsocket_tuple *t, const struct sock *sk)
{
	const __portpair ports = INET_COMBINED_PORTS(t->th->source,
						     ntohs(t->th->dest));

#if IS_ENABLED(CONFIG_IPV6)
	if (t->v6)
		return inet6_match(t->net, sk, &t->ip6->saddr, &t->ip6->daddr,
				   ports, t->dif, t->sdif);
#endif
	{
		INET_ADDR_COOKIE(cookie, t->ip4->saddr, t->ip4->daddr);

		return inet_match(t->net, sk, cookie, ports, t->dif, t->sdif);
	}
}

static struct sock *fsocket_lookup_local(const struct fsocket_tuple *t)
{
	struct fsocket_set *set = fsocket_set_of(smp_processor_id(), t->hash);
	struct sock *sk;
	int i;

	for (i = 0; i < FSOCKET_WAYS; i++) {
		if (READ_ONCE(set->way[i].hash) != t->hash)
			continue;
		sk = READ_ONCE(set->way[i].sk);
		if (!sk || !fsocket_match(t, sk) ||
		    !refcount_inc_not_zero(&sk->sk_refcnt))
			continue;
		/* If @sk is still in its slot, it was not freed before we took the reference. */
		smp_mb__after_atomic();
		if (READ_ONCE(set->way[i].sk) == sk && fsocket_match(t, sk))
			return sk;
		sock_gen_put(sk);
	}
	return NULL;
}

static struct sock *fsocket_lookup_global(const struct fsocket_tuple *t)
{
	struct inet_hashinfo *hashinfo = t->net->ipv4.tcp_death_row.hashinfo;

#if IS_ENABLED(CONFIG_IPV6)
	if (t->v6)
		return __inet6_lookup_established(t->net, hashinfo,
						  &t->ip6->saddr, t->th->source,
						  &t->ip6->daddr,
						  ntohs(t->th->dest),
						  t->dif, t->sdif);
#endif
	return __inet_lookup_established(t->net, hashinfo, t->ip4->saddr,
					 t->th->source, t->ip4->daddr,
					 ntohs(t->th->dest), t->dif, t->sdif);
}

static bool fsocket_kernel_demuxes(const struct net *net)
{
	return READ_ONCE(net->ipv4.sysctl_ip_early_demux) &&
	       READ_ONCE(net->ipv4.sysctl_tcp_early_demux);
}

static void fsocket_take_route(const struct fsocket_tuple *t,
			       struct sk_buff *skb, struct sock *sk)
{
	struct dst_entry *dst = rcu_dereference(sk->sk_rx_dst);

	if (dst)
		dst = dst_check(dst, t->v6 ? sk->sk_rx_dst_cookie : 0);
	if (!dst || sk->sk_rx_dst_ifindex != skb->skb_iif)
		return;
	skb_dst_set_noref(skb, dst);
	fsocket_count(t->net, direct_tcp);
}

/* Counts a packet that the local table has no socket for; @sk is the global table's or NULL. */
static void fsocket_count_missed(const struct fsocket_tuple *t,
				 const struct sock *sk)
{
	if (sk && sk_fullsock(sk) && sk->sk_state != TCP_SYN_SENT)
		fsocket_count(t->net, established_remote);
	else
		fsocket_count(t->net, established_miss);
	trace_fsocket_miss(ntohs(t->th->source), ntohs(t->th->dest));
}

static void fsocket_demux(const struct fsocket_tuple *t, struct sk_buff *skb)
{
	bool local = READ_ONCE(fsocket_local), direct = READ_ONCE(fsocket_direct);
	struct sock *sk = local ? fsocket_lookup_local(t) : NULL;

	if (sk) {
		fsocket_count(t->net, established_hit);
		trace_fsocket_hit(ntohs(t->th->source), ntohs(t->th->dest));
	} else {
		/* tcp_v4_early_demux() would look there next, and skips a packet with a socket. */
		sk = fsocket_lookup_global(t);
		if (local)
			fsocket_count_missed(t, sk);
	}
	if (!sk)
		return;
	/*
	 * Leave handshakes to the kernel. A list of packets passes this hook as a whole before
	 * any of it is delivered, and often has the ACK and the first data of one connection. If
	 * both had the request socket, TCP would make the connection's socket for each, and throw
	 * the second one away.
	 */
	if (sk->sk_state == TCP_NEW_SYN_RECV) {
		sock_gen_put(sk);
		return;
	}
	skb->sk = sk;
	skb->destructor = sock_edemux;
	/* tcp_v4_early_demux() would set the route, too, and skips this packet now. */
	if (sk_fullsock(sk) && !skb_dst(skb) &&
	    (direct || fsocket_kernel_demuxes(t->net)))
		fsocket_take_route(t, skb, sk);
}

/*
 * Returns the TCP header if @skb may belong to a connection, else NULL; the conditions are
 * those of tcp_v4_early_demux(), and SYNs are left out.
 */
static const struct tcphdr *fsocket_tcp_header(struct sk_buff *skb)
{
	const struct tcphdr *th;

	if (skb->sk || skb->pkt_type != PACKET_HOST ||
	    !pskb_may_pull(skb, skb_transport_offset(skb) + sizeof(*th)))
		return NULL;
	th = tcp_hdr(skb);
	if (th->doff < sizeof(*th) / 4 || (th->syn && !th->ack))
		return NULL;
	return th;
}

/*
 * Whether br_netfilter shows @skb to the hooks of IP while a bridge handles it. The packet
 * may leave by another port, and there queueing disciplines take skb->sk for its sender.
 */
static bool fsocket_is_bridged(const struct sk_buff *skb)
{
#if IS_ENABLED(CONFIG_BRIDGE_NETFILTER)
	return nf_bridge_info_exists(skb);
#else
	return false;
#endif
}

/*
 * Whether @skb passes the hook a second time, with the VRF as its device, or moves to
 * another network namespace (ipvlan in L3S mode). Which sockets may receive it is known
 * only then. @climbed: its device is the VRF already.
 */
static bool fsocket_comes_again(const struct sk_buff *skb, bool climbed)
{
	return netif_is_l3_slave(skb->dev) || netif_has_l3_rx_handler(skb->dev) ||
	       (netif_is_l3_master(skb->dev) && !climbed);
}

static unsigned int fsocket_prerouting4(void *priv, struct sk_buff *skb,
					const struct nf_hook_state *state)
{
	struct fsocket_tuple t = { .net = state->net };

	if (ip_hdr(skb)->protocol != IPPROTO_TCP || ip_is_fragment(ip_hdr(skb)) ||
	    fsocket_is_bridged(skb) ||
	    fsocket_comes_again(skb, ipv4_l3mdev_skb(IPCB(skb)->flags)))
		return NF_ACCEPT;
	t.th = fsocket_tcp_header(skb);
	if (!t.th)
		return NF_ACCEPT;
	t.ip4 = ip_hdr(skb);
	t.dif = skb->skb_iif;
	t.sdif = inet_sdif(skb);
	t.hash = inet_ehashfn(t.net, t.ip4->daddr, ntohs(t.th->dest),
			      t.ip4->saddr, t.th->source);
	fsocket_demux(&t, skb);
	return NF_ACCEPT;
}

#if IS_ENABLED(CONFIG_IPV6)
static unsigned int fsocket_prerouting6(void *priv, struct sk_buff *skb,
					const struct nf_hook_state *state)
{
	struct fsocket_tuple t = { .net = state->net, .v6 = true };

	if (ipv6_hdr(skb)->nexthdr != IPPROTO_TCP || fsocket_is_bridged(skb) ||
	    fsocket_comes_again(skb, ipv6_l3mdev_skb(IP6CB(skb)->flags)))
		return NF_ACCEPT;
	t.th = fsocket_tcp_header(skb);
	if (!t.th)
		return NF_ACCEPT;
	t.ip6 = ipv6_hdr(skb);
	t.dif = inet6_iif(skb);
	t.sdif = inet6_sdif(skb);
	t.hash = inet6_ehashfn(t.net, &t.ip6->daddr, ntohs(t.th->dest),
			       &t.ip6->saddr, t.th->source);
	fsocket_demux(&t, skb);
	return NF_ACCEPT;
}
#endif

/* The last hook: after NAT and TPROXY, right before the kernel's early demultiplexing. */
static const struct nf_hook_ops fsocket_prerouting[] = {
	{
		.hook = fsocket_prerouting4,
		.pf = NFPROTO_IPV4,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = NF_IP_PRI_LAST,
	},
#if IS_ENABLED(CONFIG_IPV6)
	{
		.hook = fsocket_prerouting6,
		.pf = NFPROTO_IPV6,
		.hooknum = NF_INET_PRE_ROUTING,
		.priority = NF_IP6_PRI_LAST,
	},
#endif
};

static int __net_init fsocket_prerouting_init(struct net *net)
{
	return nf_register_net_hooks(net, fsocket_prerouting,
				     ARRAY_SIZE(fsocket_prerouting));
}

static void __net_exit fsocket_prerouting_exit(struct net *net)
{
	nf_unregister_net_hooks(net, fsocket_prerouting,
				ARRAY_SIZE(fsocket_prerouting));
}

static struct pernet_operations fsocket_prerouting_ops = {
	.init = fsocket_prerouting_init,
	.exit = fsocket_prerouting_exit,
};

static void fsocket_tables_free(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		kvfree(per_cpu(fsocket_table, cpu));
		per_cpu(fsocket_table, cpu) = NULL;
	}
}

static int fsocket_tables_alloc(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		struct fsocket_set *table =
			kvzalloc_node(array_size(FSOCKET_SETS, sizeof(*table)),
				      GFP_KERNEL, cpu_to_node(cpu));

		per_cpu(fsocket_table, cpu) = table;
		if (!table) {
			fsocket_tables_free();
			return -ENOMEM;
		}
	}
	return 0;
}

static int fsocket_tables_start(void)
{
	int ret;

	fsocket_established_tracepoint = fsocket_find_tracepoint("inet_sock_set_state");
	if (!fsocket_established_tracepoint)
		return -EOPNOTSUPP;
	ret = fsocket_tables_alloc();
	if (ret)
		return ret;
	ret = tracepoint_probe_register(fsocket_established_tracepoint,
					fsocket_established_changes, NULL);
	if (ret)
		fsocket_tables_free();
	return ret;
}

/*
 * Removes all sockets from @table, to which none is added any more. A socket that closes
 * meanwhile is counted by fsocket_table_del().
 */
static void fsocket_table_clear(struct fsocket_set *table)
{
	int i, j;

	for (i = 0; i < FSOCKET_SETS; i++) {
		rcu_read_lock();
		for (j = 0; j < FSOCKET_WAYS; j++) {
			if (READ_ONCE(table[i].way[j].sk))
				fsocket_slot_replace(&table[i].way[j], NULL);
		}
		rcu_read_unlock();
		cond_resched();
	}
}

static void fsocket_tables_stop(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		fsocket_table_clear(per_cpu(fsocket_table, cpu));
	tracepoint_probe_unregister(fsocket_established_tracepoint, fsocket_established_changes,
				    NULL);
	tracepoint_synchronize_unregister();
	fsocket_tables_free();
}

/* The hooks are registered while at least one of the two features is on. */
static int fsocket_prerouting_set(bool *feature, bool on)
{
	bool others = feature == &fsocket_local ? fsocket_direct : fsocket_local;
	int ret;

	if (on && !others) {
		ret = register_pernet_subsys(&fsocket_prerouting_ops);
		if (ret)
			return ret;
	}
	WRITE_ONCE(*feature, on);
	if (!on && !others)
		unregister_pernet_subsys(&fsocket_prerouting_ops);
	/* After this no packet is under way that has seen the feature switched on. */
	if (!on)
		synchronize_net();
	return 0;
}

int fsocket_established_enable(bool on)
{
	int ret;

	if (on) {
		ret = fsocket_tables_start();
		if (ret)
			return ret;
	}
	ret = fsocket_prerouting_set(&fsocket_local, on);
	if (!on || ret)
		fsocket_tables_stop();
	return ret;
}

int fsocket_direct_tcp_enable(bool on)
{
	return fsocket_prerouting_set(&fsocket_direct, on);
}
