// SPDX-License-Identifier: GPL-2.0-only
/*
 * A connection inherits its options from the listener on which it arrived
 * (sk_clone_lock() and its callers), so a local listener needs all options of the
 * listening socket for which it accepts. An option that can be shared but not copied is
 * an obstacle: a socket with such an option keeps its one, shared accept queue.
 */
#include <linux/cgroup.h>
#include <linux/ipv6.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/request_sock.h>
#include <net/sock_reuseport.h>
#include <net/tcp.h>

#include "compat.h"
#include "inherit.h"

/* Whether a BPF program selects among the sockets of the SO_REUSEPORT group by index. */
static bool fsocket_has_reuseport_prog(const struct sock *sk)
{
	struct sock_reuseport *group;
	bool has;

	rcu_read_lock();
	group = rcu_dereference(sk->sk_reuseport_cb);
	has = group && rcu_access_pointer(group->prog);
	rcu_read_unlock();
	return has;
}

const char *fsocket_inherit_obstacle(const struct sock *sk)
{
	const struct inet_connection_sock *icsk = inet_csk(sk);

	if (rcu_access_pointer(sk->sk_filter))
		return "a socket filter";
	if (fsocket_has_reuseport_prog(sk))
		return "a BPF program that selects SO_REUSEPORT sockets";
	if (sk->sk_flags & SK_FLAGS_TIMESTAMP || sk->sk_tsflags)
		return "time stamps";
	if (sk->sk_user_data)
		return "a user in the kernel";
#ifdef CONFIG_BPF_SYSCALL
	if (rcu_access_pointer(sk->sk_bpf_storage))
		return "storage of a BPF program";
#endif
	/* A local listener has no file, so it sends nobody SIGIO. */
	if (sock_flag(sk, SOCK_FASYNC))
		return "O_ASYNC";
	if (sock_flag(sk, SOCK_TXTIME))
		return "SO_TXTIME";
	if (rcu_access_pointer(inet_sk(sk)->inet_opt))
		return "IP options";
	if (icsk->icsk_accept_queue.fastopenq.max_qlen)
		return "TCP_FASTOPEN";
	if (icsk->icsk_ulp_ops)
		return "an upper-layer protocol";
	/* Connections of such a listener begin in repair mode, too. */
	if (tcp_sk(sk)->repair)
		return "TCP_REPAIR";
#ifdef CONFIG_XFRM
	if (rcu_access_pointer(sk->sk_policy[0]) ||
	    rcu_access_pointer(sk->sk_policy[1]))
		return "an IPsec policy";
#endif
#ifdef CONFIG_TCP_MD5SIG
	if (rcu_access_pointer(tcp_sk(sk)->md5sig_info))
		return "TCP_MD5SIG";
#endif
#ifdef CONFIG_TCP_AO
	if (rcu_access_pointer(tcp_sk(sk)->ao_info))
		return "TCP_AO";
#endif
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6 &&
	    rcu_access_pointer(inet6_sk(sk)->opt))
		return "IPv6 extension headers";
#endif
	return NULL;
}

static void fsocket_inherit_sock(struct sock *to, const struct sock *from)
{
	static const enum sock_flags flags[] = {
		SOCK_LINGER, SOCK_KEEPOPEN, SOCK_URGINLINE, SOCK_LOCALROUTE,
		SOCK_DBG, SOCK_ZEROCOPY, SOCK_RXQ_OVFL, SOCK_WIFI_STATUS,
		SOCK_SELECT_ERR_QUEUE, SOCK_BROADCAST, SOCK_NOFCS,
		SOCK_FILTER_LOCKED, SOCK_RCVMARK,
	};
	int i;

	for (i = 0; i < ARRAY_SIZE(flags); i++)
		sock_valbool_flag(to, flags[i], sock_flag(from, flags[i]));

	WRITE_ONCE(to->sk_bound_dev_if, READ_ONCE(from->sk_bound_dev_if));
	to->sk_reuse = from->sk_reuse;
	to->sk_no_check_tx = from->sk_no_check_tx;
	/*
	 * tcp_abort() of a local listener must not let go of the port, whose buckets bind.c
	 * uses until it has settled them. Connections do not inherit this bit.
	 */
	to->sk_userlocks = from->sk_userlocks | SOCK_BINDPORT_LOCK;
	to->sk_rcvbuf = from->sk_rcvbuf;
	to->sk_sndbuf = from->sk_sndbuf;
	to->sk_rcvlowat = from->sk_rcvlowat;
	to->sk_rcvtimeo = from->sk_rcvtimeo;
	to->sk_sndtimeo = from->sk_sndtimeo;
	to->sk_lingertime = from->sk_lingertime;
	WRITE_ONCE(to->sk_peek_off, READ_ONCE(from->sk_peek_off));
	to->sk_priority = from->sk_priority;
	to->sk_mark = from->sk_mark;
	to->sk_uid = from->sk_uid;
	to->sk_txrehash = from->sk_txrehash;
	to->sk_pacing_status = from->sk_pacing_status;
	to->sk_pacing_rate = from->sk_pacing_rate;
	to->sk_max_pacing_rate = from->sk_max_pacing_rate;
#ifdef CONFIG_NET_RX_BUSY_POLL
	to->sk_ll_usec = from->sk_ll_usec;
	to->sk_prefer_busy_poll = from->sk_prefer_busy_poll;
	to->sk_busy_poll_budget = from->sk_busy_poll_budget;
#endif
	WRITE_ONCE(to->sk_max_ack_backlog, READ_ONCE(from->sk_max_ack_backlog));
}

static void fsocket_inherit_inet(struct sock *to, const struct sock *from)
{
	struct inet_sock *ti = inet_sk(to);
	const struct inet_sock *fi = inet_sk(from);

	fsocket_copy_inet_flags(ti, fi);
	ti->uc_ttl = fi->uc_ttl;
	ti->tos = fi->tos;
	ti->min_ttl = fi->min_ttl;
	ti->mc_ttl = fi->mc_ttl;
	ti->pmtudisc = fi->pmtudisc;
	ti->rcv_tos = fi->rcv_tos;
	ti->uc_index = fi->uc_index;
	ti->mc_index = fi->mc_index;
	ti->mc_addr = fi->mc_addr;
}

static void fsocket_inherit_inet6(struct sock *to, const struct sock *from)
{
#if IS_ENABLED(CONFIG_IPV6)
	struct ipv6_pinfo np = *inet6_sk(from);

	/*
	 * tcp_v6_syn_recv_sock() does the same to a child: it copies everything and
	 * clears what must not be shared. Clear it in a copy, not in @to: that may be
	 * handling SYNs and would pass a pointer of @from to a child.
	 */
	np.ipv6_mc_list = NULL;
	np.ipv6_ac_list = NULL;
#ifdef FSOCKET_FL_LIST_IN_PINFO
	np.ipv6_fl_list = NULL;
#endif
	np.pktoptions = NULL;
	np.rxpmtu = NULL;
	RCU_INIT_POINTER(np.opt, NULL);
	np.saddr = inet6_sk(to)->saddr;
	*inet6_sk(to) = np;
#endif
}

/* Connections belong to the cgroup of their listener, not to that of the spawning task. */
static void fsocket_inherit_cgroup(struct sock *to, const struct sock *from)
{
#ifdef CONFIG_SOCK_CGROUP_DATA
	struct cgroup *own = sock_cgroup_ptr(&to->sk_cgrp_data);
	struct cgroup *cgroup =
		sock_cgroup_ptr((struct sock_cgroup_data *)&from->sk_cgrp_data);

	if (own == cgroup)
		return;
	/* Does what cgroup_sk_clone() and cgroup_sk_free() do, which are not exported. */
	cgroup_get(cgroup);
	cgroup_bpf_get(cgroup);
	to->sk_cgrp_data = from->sk_cgrp_data;
	cgroup_bpf_put(own);
	cgroup_put(own);
#endif
}

void fsocket_inherit_address(struct sock *to, const struct sock *from)
{
	to->sk_bound_dev_if = from->sk_bound_dev_if;
	to->sk_ipv6only = from->sk_ipv6only;
	inet_sk(to)->inet_saddr = inet_sk(from)->inet_saddr;
	inet_sk(to)->inet_rcv_saddr = inet_sk(from)->inet_rcv_saddr;
#if IS_ENABLED(CONFIG_IPV6)
	if (from->sk_family == AF_INET6) {
		to->sk_v6_rcv_saddr = from->sk_v6_rcv_saddr;
		inet6_sk(to)->saddr = inet6_sk(from)->saddr;
	}
#endif
	fsocket_inherit_cgroup(to, from);
}

/* HAProxy sets TCP_QUICKACK on its listeners. */
void fsocket_inherit_quickack(struct sock *to, const struct sock *from)
{
	inet_csk(to)->icsk_ack.pingpong = inet_csk(from)->icsk_ack.pingpong;
}

u64 fsocket_inherit_cookie(struct sock *to, struct sock *from)
{
	u32 cookie[2];

	sock_diag_save_cookie(from, cookie);
	return atomic64_xchg(&to->sk_cookie, (u64)cookie[1] << 32 | cookie[0]);
}

static int fsocket_inherit_tcp(struct sock *to, const struct sock *from)
{
	struct inet_connection_sock *ticsk = inet_csk(to);
	const struct inet_connection_sock *ficsk = inet_csk(from);
	struct tcp_sock *tt = tcp_sk(to);
	const struct tcp_sock *ft = tcp_sk(from);
	const struct tcp_congestion_ops *ca;
	char name[TCP_CA_NAME_MAX];

	ticsk->icsk_user_timeout = ficsk->icsk_user_timeout;
	ticsk->icsk_syn_retries = ficsk->icsk_syn_retries;
	ticsk->icsk_rto_min = ficsk->icsk_rto_min;
	ticsk->icsk_delack_max = ficsk->icsk_delack_max;
	fsocket_inherit_quickack(to, from);
	ticsk->icsk_accept_queue.rskq_defer_accept =
		ficsk->icsk_accept_queue.rskq_defer_accept;

	tt->nonagle = ft->nonagle;
	tt->thin_lto = ft->thin_lto;
	tt->recvmsg_inq = ft->recvmsg_inq;
	tt->save_syn = ft->save_syn;
	tt->fastopen_connect = ft->fastopen_connect;
	tt->fastopen_no_cookie = ft->fastopen_no_cookie;
	tt->tcp_tx_delay = ft->tcp_tx_delay;
	tt->window_clamp = ft->window_clamp;
	tt->rx_opt.user_mss = ft->rx_opt.user_mss;
	tt->keepalive_time = ft->keepalive_time;
	tt->keepalive_intvl = ft->keepalive_intvl;
	tt->keepalive_probes = ft->keepalive_probes;
	tt->linger2 = ft->linger2;
	tt->notsent_lowat = ft->notsent_lowat;
#ifdef CONFIG_BPF
	tt->bpf_sock_ops_cb_flags = ft->bpf_sock_ops_cb_flags;
#endif

	/*
	 * Connections of a listener that has chosen no congestion control get the default of
	 * the moment when they arrive: tcp_ca_openreq_child().
	 */
	if (!ficsk->icsk_ca_setsockopt) {
		ticsk->icsk_ca_setsockopt = 0;
		return 0;
	}
	/*
	 * @from is not locked, so it may get another one at any time. The module of the
	 * old one is freed a grace period after the last reference to it; setsockopt()
	 * takes one.
	 */
	rcu_read_lock();
	ca = READ_ONCE(ficsk->icsk_ca_ops);
	strscpy(name, ca->name, sizeof(name));
	rcu_read_unlock();
	if (ticsk->icsk_ca_ops == ca && ticsk->icsk_ca_setsockopt)
		return 0;
	return to->sk_prot->setsockopt(to, SOL_TCP, TCP_CONGESTION,
				       KERNEL_SOCKPTR(name), strlen(name));
}

int fsocket_inherit(struct sock *to, const struct sock *from)
{
	fsocket_inherit_sock(to, from);
	fsocket_inherit_inet(to, from);
	if (from->sk_family == AF_INET6)
		fsocket_inherit_inet6(to, from);
	return fsocket_inherit_tcp(to, from);
}
