/* SPDX-License-Identifier: GPL-2.0-only */
/* All differences between the kernels that the module supports. */
#ifndef FSOCKET_COMPAT_H
#define FSOCKET_COMPAT_H

#include <linux/file.h>
#include <linux/ftrace.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/version.h>
#include <net/inet_common.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet_sock.h>
#include <net/inet_timewait_sock.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/page_pool/helpers.h>
#else
#include <net/page_pool.h>
#endif

/* 6.10 packed the arguments of proto_ops.accept into a structure. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#define FSOCKET_ACCEPT_PARAMS	struct proto_accept_arg *arg
#define FSOCKET_ACCEPT_FLAGS	(arg->flags)
#define FSOCKET_ACCEPT_KERN	(arg->kern)
#define FSOCKET_ORIG_ACCEPT(ops, sock, newsock)	((ops)->accept(sock, newsock, arg))

static inline int fsocket_ops_accept(struct socket *sock,
				     struct socket *newsock, int flags)
{
	struct proto_accept_arg arg = { .flags = flags };

	return READ_ONCE(sock->ops)->accept(sock, newsock, &arg);
}

static inline int fsocket_inet_accept(struct socket *sock,
				      struct socket *newsock,
				      int flags, bool kern)
{
	struct proto_accept_arg arg = { .flags = flags, .kern = kern };

	return inet_accept(sock, newsock, &arg);
}
#else
#define FSOCKET_ACCEPT_PARAMS	int flags, bool kern
#define FSOCKET_ACCEPT_FLAGS	flags
#define FSOCKET_ACCEPT_KERN	kern
#define FSOCKET_ORIG_ACCEPT(ops, sock, newsock)	((ops)->accept(sock, newsock, flags, kern))

static inline int fsocket_ops_accept(struct socket *sock,
				     struct socket *newsock, int flags)
{
	return READ_ONCE(sock->ops)->accept(sock, newsock, flags, false);
}

static inline int fsocket_inet_accept(struct socket *sock,
				      struct socket *newsock,
				      int flags, bool kern)
{
	return inet_accept(sock, newsock, flags, kern);
}
#endif

/* 6.12 made struct fd opaque. */
static inline struct file *fsocket_fd_file(struct fd f)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	return fd_file(f);
#else
	return f.file;
#endif
}

/* Until 6.5 tcp_stream_alloc_skb() had a parameter for the size of data in the head. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define FSOCKET_STREAM_ALLOC_PARAMS	struct sock *sk, gfp_t gfp, bool force
#define FSOCKET_STREAM_ALLOC_BY(function)	((function)(sk, gfp, force))
#define FSOCKET_STREAM_ALLOC_SIZE	0
#else
#define FSOCKET_STREAM_ALLOC_PARAMS	struct sock *sk, int size, gfp_t gfp, bool force
#define FSOCKET_STREAM_ALLOC_BY(function)	((function)(sk, size, gfp, force))
#define FSOCKET_STREAM_ALLOC_SIZE	size
#endif

/* The function had this name until 6.2. */
#ifndef ftrace_regs_set_instruction_pointer
#define ftrace_regs_set_instruction_pointer	ftrace_instruction_pointer_set
#endif

/* Until 6.7 the flags of a page pool had to say that its pages will be split. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define FSOCKET_PP_FLAGS	0
#else
#define FSOCKET_PP_FLAGS	PP_FLAG_PAGE_FRAG
#endif

/*
 * 6.6 turned the bit fields of struct inet_sock into one word of flags. Stable kernels have
 * the range of ports: see Kbuild.
 */
static inline void fsocket_copy_inet_flags(struct inet_sock *to,
					   const struct inet_sock *from)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	to->inet_flags = from->inet_flags;
#else
	to->cmsg_flags = from->cmsg_flags;
	to->recverr = from->recverr;
	to->recverr_rfc4884 = from->recverr_rfc4884;
	to->freebind = from->freebind;
	to->transparent = from->transparent;
	to->mc_loop = from->mc_loop;
	to->mc_all = from->mc_all;
	to->nodefrag = from->nodefrag;
	to->bind_address_no_port = from->bind_address_no_port;
#endif
#ifdef FSOCKET_LOCAL_PORT_RANGE
	to->local_port_range = from->local_port_range;
#endif
}

/*
 * Since 6.7 a socket can report changes of its SOL_SOCKET options to the module.
 * Before, options that are set after the first spawn do not reach the local listeners.
 *
 * do_sock_setsockopt() reads the ops of the socket before it reads this flag. If the module
 * replaces the ops and sets the flag meanwhile, the original ops get such an option, and
 * refuse it with ENOPROTOOPT. Only a wait for all tasks between the two steps would prevent
 * that (synchronize_rcu_tasks()), which is too much for a spawn.
 */
static inline void fsocket_see_sol_socket(struct socket *sock, bool see)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	assign_bit(SOCK_CUSTOM_SOCKOPT, &sock->flags, see);
#endif
}

/* Since 6.3 the flags of a mapping are const, and vm_flags_clear() changes them. */
static inline void fsocket_vm_flags_clear(struct vm_area_struct *vma,
					  unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

/*
 * Returns the range of ports of @sk itself (IP_LOCAL_PORT_RANGE), high << 16 | low; 0
 * for none. Called under the socket's lock.
 */
#ifdef FSOCKET_LOCAL_PORT_RANGE
#define FSOCKET_HAS_PORT_RANGE	true

static inline u32 fsocket_local_port_range(const struct sock *sk)
{
#ifdef FSOCKET_LOCAL_PORT_RANGE_IS_U32
	return inet_sk(sk)->local_port_range;
#else
	return inet_sk(sk)->local_port_range.hi << 16 |
	       inet_sk(sk)->local_port_range.lo;
#endif
}

static inline void fsocket_set_local_port_range(struct sock *sk, u32 range)
{
#ifdef FSOCKET_LOCAL_PORT_RANGE_IS_U32
	WRITE_ONCE(inet_sk(sk)->local_port_range, range);
#else
	inet_sk(sk)->local_port_range.lo = range & 0xffff;
	inet_sk(sk)->local_port_range.hi = range >> 16;
#endif
}
#else
#define FSOCKET_HAS_PORT_RANGE	false

static inline u32 fsocket_local_port_range(const struct sock *sk)
{
	return 0;
}

static inline void fsocket_set_local_port_range(struct sock *sk, u32 range)
{
}
#endif

/*
 * Bind buckets. Until 6.8 an inet_bind_bucket has a list of its sockets, and an
 * inet_bind2_bucket has a list of its own for TIME_WAIT sockets. Since 6.8 an
 * inet_bind_bucket has a list of its inet_bind2_buckets, and these have lists of all
 * sockets.
 */
static inline void fsocket_bind2_set_address(struct inet_bind2_bucket *tb2,
					     const struct sock *sk, int family)
{
#if IS_ENABLED(CONFIG_IPV6)
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	if (family == AF_INET6)
		tb2->v6_rcv_saddr = sk->sk_v6_rcv_saddr;
	else
		ipv6_addr_set_v4mapped(sk->sk_rcv_saddr, &tb2->v6_rcv_saddr);
#else
	if (family == AF_INET6)
		tb2->v6_rcv_saddr = sk->sk_v6_rcv_saddr;
	else
		tb2->rcv_saddr = sk->sk_rcv_saddr;
#endif
#else
	tb2->rcv_saddr = sk->sk_rcv_saddr;
#endif
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
/* Gives @tb2 the address of @sk and makes it a bucket of @tb. */
static inline void fsocket_bind2_join(struct inet_bind2_bucket *tb2,
				      struct inet_bind_bucket *tb,
				      const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	tb2->addr_type = sk->sk_family == AF_INET6 ?
			 ipv6_addr_type(&sk->sk_v6_rcv_saddr) : IPV6_ADDR_MAPPED;
#endif
	hlist_add_head(&tb2->bhash_node, &tb->bhash2);
}

/* Compare inet_bind2_bucket_addr_match(). */
static inline bool fsocket_bind2_has_address(const struct inet_bind2_bucket *tb2,
					     const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6)
		return ipv6_addr_equal(&tb2->v6_rcv_saddr, &sk->sk_v6_rcv_saddr);
	if (tb2->addr_type != IPV6_ADDR_MAPPED)
		return false;
#endif
	return tb2->rcv_saddr == sk->sk_rcv_saddr;
}

/* The sockets in the buckets of @sk, linked by sk_bind_node. */
static inline struct hlist_head *fsocket_bind_owners(const struct sock *sk)
{
	return &inet_csk(sk)->icsk_bind2_hash->owners;
}

static inline void fsocket_bind_add(struct sock *sk, struct inet_bind_bucket *tb,
				    struct inet_bind2_bucket *tb2)
{
	sk_add_bind_node(sk, &tb2->owners);
	inet_csk(sk)->icsk_bind_hash = tb;
	inet_csk(sk)->icsk_bind2_hash = tb2;
}

/* Moves @sk, a TCP or TIME_WAIT socket, to these buckets. Called under the locks of both chains. */
static inline void fsocket_bind_move(struct sock *sk, struct inet_bind_bucket *tb,
				     struct inet_bind2_bucket *tb2)
{
	__sk_del_bind_node(sk);
	if (sk->sk_state == TCP_TIME_WAIT) {
		sk_add_bind_node(sk, &tb2->owners);
		inet_twsk(sk)->tw_tb = tb;
		inet_twsk(sk)->tw_tb2 = tb2;
	} else {
		fsocket_bind_add(sk, tb, tb2);
	}
}
#else
static inline void fsocket_bind2_join(struct inet_bind2_bucket *tb2,
				      struct inet_bind_bucket *tb,
				      const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	tb2->family = sk->sk_family;
#endif
}

/* A mapped address is an IPv4 address: two buckets for one address would mislead bind(). */
static inline bool fsocket_bind2_has_address(const struct inet_bind2_bucket *tb2,
					     const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (tb2->family == AF_INET6 && sk->sk_family == AF_INET)
		return ipv6_addr_v4mapped(&tb2->v6_rcv_saddr) &&
		       tb2->v6_rcv_saddr.s6_addr32[3] == sk->sk_rcv_saddr;
	if (tb2->family == AF_INET && sk->sk_family == AF_INET6)
		return ipv6_addr_v4mapped(&sk->sk_v6_rcv_saddr) &&
		       sk->sk_v6_rcv_saddr.s6_addr32[3] == tb2->rcv_saddr;
	if (sk->sk_family == AF_INET6)
		return ipv6_addr_equal(&tb2->v6_rcv_saddr, &sk->sk_v6_rcv_saddr);
#endif
	return tb2->rcv_saddr == sk->sk_rcv_saddr;
}

static inline struct hlist_head *fsocket_bind_owners(const struct sock *sk)
{
	return &inet_csk(sk)->icsk_bind_hash->owners;
}

static inline void fsocket_bind_add(struct sock *sk, struct inet_bind_bucket *tb,
				    struct inet_bind2_bucket *tb2)
{
	sk_add_bind_node(sk, &tb->owners);
	inet_csk(sk)->icsk_bind_hash = tb;
	sk_add_bind2_node(sk, &tb2->owners);
	inet_csk(sk)->icsk_bind2_hash = tb2;
}

static inline void fsocket_bind_move(struct sock *sk, struct inet_bind_bucket *tb,
				     struct inet_bind2_bucket *tb2)
{
	__sk_del_bind_node(sk);
	if (sk->sk_state == TCP_TIME_WAIT) {
		struct inet_timewait_sock *tw = inet_twsk(sk);

		sk_add_bind_node(sk, &tb->owners);
		tw->tw_tb = tb;
		__hlist_del(&tw->tw_bind2_node);
		hlist_add_head(&tw->tw_bind2_node, &tb2->deathrow);
		tw->tw_tb2 = tb2;
	} else {
		__sk_del_bind2_node(sk);
		fsocket_bind_add(sk, tb, tb2);
	}
}
#endif

/*
 * Since 6.8 ss -B lists sockets that are bound and in TCP_CLOSE. @sk, which is bound, is not
 * the program's: this state hides it, and is one that the kernel gives to no socket.
 */
static inline void fsocket_hide_bound(struct sock *sk)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	WRITE_ONCE(sk->sk_state, TCP_BOUND_INACTIVE);
#endif
}

/* Makes @tb2, which is all zero, a bucket for @sk that belongs to @tb and is in no chain. */
static inline void fsocket_bind2_init(struct inet_bind2_bucket *tb2,
				      struct inet_bind_bucket *tb,
				      const struct sock *sk)
{
	write_pnet(&tb2->ib_net, ib_net(tb));
	tb2->l3mdev = tb->l3mdev;
	tb2->port = tb->port;
	fsocket_bind2_set_address(tb2, sk, sk->sk_family);
	fsocket_bind2_join(tb2, tb, sk);
}

/* Returns whether @tb2 is the bucket of @tb for the address of @sk. */
static inline bool fsocket_bind2_match(const struct inet_bind2_bucket *tb2,
				       const struct inet_bind_bucket *tb,
				       const struct sock *sk)
{
	return net_eq(ib2_net(tb2), ib_net(tb)) && tb2->port == tb->port &&
	       tb2->l3mdev == tb->l3mdev && fsocket_bind2_has_address(tb2, sk);
}

/* Stable kernels backport the last parameter of syn_recv_sock(): see Kbuild. */
#ifdef FSOCKET_CHILD_INIT
#define FSOCKET_SYN_RECV_PARAMS						\
	const struct sock *sk, struct sk_buff *skb, struct request_sock *req,	\
	struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req,	\
	void (*child_init)(struct sock *, const struct sock *)
#define FSOCKET_SYN_RECV_BY(ops)					\
	((ops)->syn_recv_sock(sk, skb, req, dst, req_unhash, own_req, child_init))
#else
#define FSOCKET_SYN_RECV_PARAMS						\
	const struct sock *sk, struct sk_buff *skb, struct request_sock *req,	\
	struct dst_entry *dst, struct request_sock *req_unhash, bool *own_req
#define FSOCKET_SYN_RECV_BY(ops)					\
	((ops)->syn_recv_sock(sk, skb, req, dst, req_unhash, own_req))
#endif

/* Returns the memory cgroup to which @sk is charged; NULL for the root. */
static inline struct mem_cgroup *fsocket_memcg_of(const struct sock *sk)
{
#ifdef CONFIG_MEMCG
	return sk->sk_memcg;
#else
	return NULL;
#endif
}

#endif
