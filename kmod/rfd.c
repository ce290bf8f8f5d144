// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive Flow Deliver (section 3.3 of the paper): an active connection gets a
 * source port that names the CPU which connects, so that whoever sees a reply
 * knows where it belongs: our policy of packet redispatch, or a filter of the
 * NIC (ntuple.c).
 *
 * Which bits of a port name the CPU, and how they are turned, is chosen at
 * random when the module is loaded: else anybody could aim packets at one CPU.
 * The port itself is random (RFC 6056, algorithm 1), within the socket's
 * ip_local_port_range and beside reserved ports.
 *
 * A chosen port is bound as connect() itself does it: in a bucket that only
 * connecting sockets share (fastreuse and fastreuseport are negative), so that
 * one port serves many destinations, and without SOCK_BINDPORT_LOCK, so that
 * closing returns it. That the four-tuple is free, connect() checks after us.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/log2.h>
#include <linux/random.h>
#include <net/inet6_hashtables.h>
#include <net/inet_hashtables.h>
#include <net/ip.h>
#include <net/tcp.h>

#include "compat.h"
#include "fastsocket_policy.h"
#include "ntuple.h"
#include "rfd.h"
#include "stats.h"

/*
 * Ports that are tried at random, before all are one after the other. Going on
 * from a random one at once would make some ports far likelier than others.
 */
#define FSOCKET_PORT_TRIES	64

/* Bits of a port among which to choose: those that differ in any usual range. */
#define FSOCKET_PORT_BITS	14

static bool fsocket_rfd_on;

/* The bits that name the CPU, from its lowest to its highest; and the turn. */
static unsigned int fsocket_bits[FSOCKET_PORT_BITS], fsocket_nbits;
static unsigned int fsocket_turn;

/* Ports that have ever been chosen; others are none of ours. */
static DECLARE_BITMAP(fsocket_ports, 65536);

void fsocket_rfd_init(void)
{
	unsigned int mask = 0, bit;

	fsocket_nbits = min_t(unsigned int, FSOCKET_PORT_BITS,
			      ilog2(roundup_pow_of_two(nr_cpu_ids)));
	while (hweight16(mask) < fsocket_nbits) {
		bit = reciprocal_scale(get_random_u32(), FSOCKET_PORT_BITS);
		if (mask & BIT(bit))
			continue;
		fsocket_bits[hweight16(mask)] = bit;
		mask |= BIT(bit);
	}
	fsocket_turn = get_random_u32() & (BIT(fsocket_nbits) - 1);
}

/* Maybe one that does not exist. */
static unsigned int fsocket_port_cpu(u16 port)
{
	unsigned int i, cpu = fsocket_turn;

	for (i = 0; i < fsocket_nbits; i++)
		cpu ^= (port >> fsocket_bits[i] & 1) << i;
	return cpu;
}

/* @port with other bits, so that it names @cpu. */
static u16 fsocket_port_towards(u16 port, unsigned int cpu)
{
	unsigned int i, bit;

	for (i = 0; i < fsocket_nbits; i++) {
		bit = BIT(fsocket_bits[i]);
		if ((cpu ^ fsocket_turn) >> i & 1)
			port |= bit;
		else
			port &= ~bit;
	}
	return port;
}

u16 fsocket_rfd_port_bits(unsigned int cpu, u16 *mask)
{
	unsigned int i;

	for (*mask = 0, i = 0; i < fsocket_nbits; i++)
		*mask |= BIT(fsocket_bits[i]);
	return fsocket_port_towards(0, cpu);
}

static bool fsocket_bucket_is_connecting(const struct inet_bind_bucket *tb)
{
	return tb->fastreuse < 0 && tb->fastreuseport < 0;
}

static struct inet_bind_hashbucket *fsocket_bind_head(struct net *net, u16 port)
{
	struct inet_hashinfo *hashinfo = net->ipv4.tcp_death_row.hashinfo;

	return &hashinfo->bhash[inet_bhashfn(net, port, hashinfo->bhash_size)];
}

/* Whether nobody has bound @port explicitly. */
static bool fsocket_port_is_free(struct sock *sk, u16 port)
{
	struct net *net = sock_net(sk);
	struct inet_bind_hashbucket *head = fsocket_bind_head(net, port);
	int l3mdev = inet_sk_bound_l3mdev(sk);
	struct inet_bind_bucket *tb;
	bool is_free = true;

	spin_lock_bh(&head->lock);
	inet_bind_bucket_for_each(tb, &head->chain) {
		if (net_eq(ib_net(tb), net) && tb->port == port &&
		    tb->l3mdev == l3mdev)
			is_free = fsocket_bucket_is_connecting(tb);
	}
	spin_unlock_bh(&head->lock);
	return is_free;
}

/* Binds @sk to @port, if nobody has bound that explicitly meanwhile. */
static bool fsocket_port_take(struct sock *sk, u16 port)
{
	struct inet_bind_hashbucket *head = fsocket_bind_head(sock_net(sk), port);
	unsigned char reuse = sk->sk_reuse;
	struct inet_bind_bucket *tb;
	bool taken;

	/* We judge conflicts, and connect() does: not get_port(). */
	sk->sk_reuse = SK_FORCE_REUSE;
	taken = !sk->sk_prot->get_port(sk, port);
	sk->sk_reuse = reuse;
	if (!taken)
		return false;

	spin_lock_bh(&head->lock);
	tb = inet_csk(sk)->icsk_bind_hash;
	taken = tb->fastreuse < 0 || fsocket_bucket_has_only(tb, sk);
	if (taken) {
		tb->fastreuse = -1;
		tb->fastreuseport = -1;
	}
	spin_unlock_bh(&head->lock);
	if (!taken)
		inet_put_port(sk);
	return taken;
}

static bool fsocket_port_try(struct sock *sk, u16 port)
{
	return !inet_is_local_reserved_port(sock_net(sk), port) &&
	       fsocket_port_is_free(sk, port) && fsocket_port_take(sk, port);
}

/* Binds @sk to a port from @low to @high that names @cpu; 0 if none is free. */
static u16 fsocket_port_find(struct sock *sk, unsigned int cpu, int low, int high)
{
	unsigned int i, range = high - low + 1, start, port;

	for (i = 0; i < FSOCKET_PORT_TRIES; i++) {
		port = low + reciprocal_scale(get_random_u32(), range);
		port = fsocket_port_towards(port, cpu);
		if (port >= low && port <= high && fsocket_port_try(sk, port))
			return port;
	}
	start = reciprocal_scale(get_random_u32(), range);
	for (i = 0; i < range; i++) {
		port = low + (start + i) % range;
		if (fsocket_port_cpu(port) == cpu && fsocket_port_try(sk, port))
			return port;
	}
	return 0;
}

bool fsocket_rfd_choose_port(struct sock *sk)
{
	int low, high;
	u16 port = 0;

	if (!READ_ONCE(fsocket_rfd_on) || sk->sk_protocol != IPPROTO_TCP)
		return false;

	lock_sock(sk);
	if (sk->sk_state != TCP_CLOSE || inet_sk(sk)->inet_num)
		goto out;
	inet_sk_get_local_port_range(sk, &low, &high);
	port = fsocket_port_find(sk, raw_smp_processor_id(), low, high);
	if (port) {
		inet_sk(sk)->inet_sport = htons(port);
		if (!test_bit(port, fsocket_ports))
			set_bit(port, fsocket_ports);
		fsocket_count(sock_net(sk), rfd_port);
	} else {
		fsocket_count(sock_net(sk), rfd_exhausted);
	}
out:
	release_sock(sk);
	return port;
}

void fsocket_rfd_return_port(struct sock *sk)
{
	lock_sock(sk);
	if (sk->sk_state == TCP_CLOSE && inet_csk(sk)->icsk_bind_hash &&
	    !(sk->sk_userlocks & SOCK_BINDPORT_LOCK)) {
		inet_put_port(sk);
		inet_sk(sk)->inet_sport = 0;
	}
	release_sock(sk);
}

void fsocket_rfd_exhausted(struct sock *sk)
{
	fsocket_count(sock_net(sk), rfd_exhausted);
}

static bool fsocket_has_listener(const struct fastsocket_flow *flow)
{
	struct net *net = dev_net(flow->dev);
	struct inet_hashinfo *hashinfo = net->ipv4.tcp_death_row.hashinfo;
	int dif = flow->dev->ifindex;

#if IS_ENABLED(CONFIG_IPV6)
	if (flow->v6)
		return inet6_lookup_listener(net, hashinfo, NULL, 0,
					     &flow->saddr6, htons(flow->sport),
					     &flow->daddr6, flow->dport, dif, 0);
#endif
	return __inet_lookup_listener(net, hashinfo, NULL, 0, flow->saddr4,
				      htons(flow->sport), flow->daddr4,
				      flow->dport, dif, 0);
}

/* The paper's three rules: is the packet of an active connection of ours? */
static int fsocket_rfd_cpu(const struct fastsocket_flow *flow)
{
	if (!test_bit(flow->dport, fsocket_ports))
		return -1;
	if (flow->sport >= 1024 &&
	    (flow->dport < 1024 || fsocket_has_listener(flow)))
		return -1;
	return fsocket_port_cpu(flow->dport);
}

static struct fastsocket_policy fsocket_rfd_policy = {
	.name = "RFD",
	.rank = 100,
	.cpu = fsocket_rfd_cpu,
};

int fsocket_rfd_enable(bool on)
{
	int ret = 0;

	if (on) {
		ret = fsocket_ntuple_enable(true);
		if (ret)
			return ret;
		fastsocket_policy_register(&fsocket_rfd_policy);
	}
	WRITE_ONCE(fsocket_rfd_on, on);
	if (!on) {
		fastsocket_policy_unregister(&fsocket_rfd_policy);
		ret = fsocket_ntuple_enable(false);
	}
	return ret;
}
