// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive Flow Deliver (section 3.3 of the paper): an active connection gets a source
 * port that names the CPU which connects (portbits.c), so that a NIC's filters can
 * deliver its packets there (ntuple.c). For NICs without such filters packet redispatch
 * does so.
 *
 * The kernel chooses and binds the port, in connect(). During that call, and under the
 * socket's lock, the socket's range of ports (IP_LOCAL_PORT_RANGE) is a row of ports
 * that name the CPU. So TIME_WAIT, reserved ports, programs of cgroups and everything
 * else about connect() are as without the module. The rows are tried in a random order
 * at first, and one after the other only then: going on from one random row at once
 * would make some ports far likelier than others.
 *
 * Redispatch goes by the connections, not by the ports, since ports of many other
 * programs also name some CPU. An entry stays when its connection is closed. A
 * connection of the same four-tuple finds it, whichever program made that, until
 * another entry takes its place.
 */
#include <linux/bpf-cgroup.h>
#include <linux/random.h>
#include <linux/rcupdate.h>
#include <net/inet_common.h>
#include <net/inet_sock.h>
#include <net/ip.h>
#include <net/sock.h>

#include "compat.h"
#include "fastsocket_policy.h"
#include "flowmap.h"
#include "ntuple.h"
#include "portbits.h"
#include "rfd.h"
#include "stats.h"

/*
 * The number of rows of ports that are tried at random, and then in turn, before the
 * kernel chooses.
 */
#define FSOCKET_RANDOM_ROWS	8
#define FSOCKET_ROWS		64

static bool fsocket_rfd_on;

/* The connections that got a port; read and written under RCU. */
static u32 *fsocket_rfd_flows;

/*
 * Does the first step of connect(), which sends a SYN, from a port of @low to @high
 * that is also within the socket's own range.
 */
static int fsocket_connect_within(struct socket *sock,
				  const struct sockaddr_storage *address,
				  int len, unsigned int low, unsigned int high)
{
	u32 range = fsocket_local_port_range(sock->sk);
	/* A BPF program of the cgroup may write to the address, so pass a copy. */
	struct sockaddr_storage copy = *address;
	int ret;

	fsocket_set_local_port_range(sock->sk, high << 16 | low);
	ret = __inet_stream_connect(sock, (struct sockaddr *)&copy, len,
				    O_NONBLOCK, 0);
	fsocket_set_local_port_range(sock->sk, range);
	return ret;
}

static unsigned int fsocket_random_port(unsigned int low, unsigned int high)
{
	return low + reciprocal_scale(get_random_u32(), high - low + 1);
}

/*
 * The row of ports to try next, and in *first and *last the part of it within @low to @high.
 * After FSOCKET_RANDOM_ROWS rows at random, rows follow each other within that range.
 */
static unsigned int fsocket_next_row(unsigned int row, unsigned int step, unsigned int cpu,
				     unsigned int low, unsigned int high,
				     unsigned int *first, unsigned int *last)
{
	unsigned int block = fsocket_portbits_block();

	if (step < FSOCKET_RANDOM_ROWS)
		row = fsocket_portbits_towards(fsocket_random_port(low, high), cpu);
	else if (step == FSOCKET_RANDOM_ROWS)
		row = fsocket_random_port(low, high) & ~(block - 1);
	else if (row + block > high)
		row = low & ~(block - 1);
	else
		row += block;
	*first = max(row, low);
	*last = min(row + block - 1, high);
	return row;
}

/* Connects from a port of @low to @high that names @cpu; returns EADDRNOTAVAIL if none is found. */
static int fsocket_connect_from(struct socket *sock,
				const struct sockaddr_storage *address, int len,
				unsigned int cpu, unsigned int low, unsigned int high)
{
	unsigned int row = 0, tried = 0, step, first, last;
	unsigned int rows = (high - low) / fsocket_portbits_block() + 2;
	int ret = -EADDRNOTAVAIL;

	for (step = 0; step < FSOCKET_RANDOM_ROWS + rows && tried < FSOCKET_ROWS; step++) {
		row = fsocket_next_row(row, step, cpu, low, high, &first, &last);
		if (first > last || fsocket_portbits_cpu(row) != cpu)
			continue;
		ret = fsocket_connect_within(sock, address, len, first, last);
		/*
		 * A BPF program of the cgroup would run at each further attempt, so make
		 * only one.
		 */
		if (ret != -EADDRNOTAVAIL || BPF_CGROUP_PRE_CONNECT_ENABLED(sock->sk))
			break;
		tried++;
	}
	return ret;
}

/*
 * Notes that the connection of @sk belongs to @cpu, for redispatch. It does so also if its port
 * names another CPU, since all ports of this one are taken, or since a program of the
 * cgroup has bound the socket.
 */
static void fsocket_rfd_add(const struct sock *sk, unsigned int cpu)
{
	u32 *flows;

	rcu_read_lock();
	flows = READ_ONCE(fsocket_rfd_flows);
	if (flows)
		fsocket_flowmap_set(flows, sk->sk_hash, cpu);
	rcu_read_unlock();
	if (fsocket_portbits_cpu(inet_sk(sk)->inet_num) == cpu)
		fsocket_count(sock_net(sk), rfd_port);
}

/* Does what fsocket_rfd_connect() does for an unbound, locked socket, without waiting. */
static int fsocket_connect_unbound(struct socket *sock,
				   const struct sockaddr_storage *address, int len)
{
	unsigned int cpu = raw_smp_processor_id();
	struct sockaddr_storage copy = *address;
	struct sock *sk = sock->sk;
	int low, high, ret;

	inet_sk_get_local_port_range(sk, &low, &high);
	ret = fsocket_connect_from(sock, address, len, cpu, low, high);
	if (ret == -EADDRNOTAVAIL) {
		fsocket_count(sock_net(sk), rfd_exhausted);
		ret = __inet_stream_connect(sock, (struct sockaddr *)&copy, len,
					    O_NONBLOCK, 0);
	}
	if (inet_sk(sk)->inet_num && !sk_unhashed(sk))
		fsocket_rfd_add(sk, cpu);
	return ret;
}

int fsocket_rfd_connect(struct socket *sock,
			const struct sockaddr_storage *address, int len)
{
	struct sockaddr_storage copy = *address;
	int flags = sock->file->f_flags, ret;
	struct sock *sk = sock->sk;
	bool first = false;

	lock_sock(sk);
	if (sock->state == SS_UNCONNECTED && sk->sk_state == TCP_CLOSE &&
	    !inet_sk(sk)->inet_num && len >= sizeof(address->ss_family) &&
	    address->ss_family != AF_UNSPEC) {
		ret = fsocket_connect_unbound(sock, address, len);
		if (ret != -EINPROGRESS || flags & O_NONBLOCK)
			goto out;
		first = true;
	}
	ret = __inet_stream_connect(sock, (struct sockaddr *)&copy, len, flags, 0);
	/* This was the second connect() for the kernel, but the first one for the caller. */
	if (first && ret == -EALREADY)
		ret = -EINPROGRESS;
out:
	release_sock(sk);
	return ret;
}

bool fsocket_rfd_serves(const struct socket *sock)
{
	return READ_ONCE(fsocket_rfd_on) && sock->sk && sk_is_tcp(sock->sk) &&
	       READ_ONCE(sock->ops)->connect == inet_stream_connect;
}

static int fsocket_rfd_cpu(const struct fastsocket_flow *flow)
{
	return fsocket_flowmap_get(fsocket_rfd_flows, flow->hash);
}

static struct fastsocket_policy fsocket_rfd_policy = {
	.name = "RFD",
	.rank = 100,
	.cpu = fsocket_rfd_cpu,
};

static void fsocket_rfd_stop(void)
{
	u32 *flows = fsocket_rfd_flows;

	WRITE_ONCE(fsocket_rfd_on, false);
	WRITE_ONCE(fsocket_rfd_flows, NULL);
	synchronize_net();
	kvfree(flows);
}

int fsocket_rfd_enable(bool on)
{
	int ret;

	if (!on) {
		fastsocket_policy_unregister(&fsocket_rfd_policy);
		fsocket_rfd_stop();
		return fsocket_ntuple_enable(false);
	}
	if (!FSOCKET_HAS_PORT_RANGE)
		return -EOPNOTSUPP;
	fsocket_rfd_flows = fsocket_flowmap_alloc();
	if (!fsocket_rfd_flows)
		return -ENOMEM;
	ret = fsocket_ntuple_enable(true);
	if (ret) {
		fsocket_rfd_stop();
		return ret;
	}
	fastsocket_policy_register(&fsocket_rfd_policy);
	WRITE_ONCE(fsocket_rfd_on, true);
	return 0;
}
