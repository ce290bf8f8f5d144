/* SPDX-License-Identifier: GPL-2.0-only */
/* Every difference between the kernels that the module supports. */
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

/* Until 6.5 tcp_stream_alloc_skb() was told of data in the head. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define FSOCKET_STREAM_ALLOC_PARAMS	struct sock *sk, gfp_t gfp, bool force
#define FSOCKET_STREAM_ALLOC_BY(function)	((function)(sk, gfp, force))
#define FSOCKET_STREAM_ALLOC_SIZE	0
#else
#define FSOCKET_STREAM_ALLOC_PARAMS	struct sock *sk, int size, gfp_t gfp, bool force
#define FSOCKET_STREAM_ALLOC_BY(function)	((function)(sk, size, gfp, force))
#define FSOCKET_STREAM_ALLOC_SIZE	size
#endif

/* Its name until 6.2. */
#ifndef ftrace_regs_set_instruction_pointer
#define ftrace_regs_set_instruction_pointer	ftrace_instruction_pointer_set
#endif

/* Until 6.7 a page pool had to be told that its pages will be split. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define FSOCKET_PP_FLAGS	0
#else
#define FSOCKET_PP_FLAGS	PP_FLAG_PAGE_FRAG
#endif

/* 6.6 turned the bit fields of struct inet_sock into one word of flags. */
static inline void fsocket_copy_inet_flags(struct inet_sock *to,
					   const struct inet_sock *from)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	to->inet_flags = from->inet_flags;
	to->local_port_range = from->local_port_range;
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
}

/*
 * Since 6.7 a socket can ask to see its SOL_SOCKET options. Before, those that
 * are set after the first spawn do not reach the local listeners.
 */
static inline void fsocket_see_sol_socket(struct socket *sock)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
	set_bit(SOCK_CUSTOM_SOCKOPT, &sock->flags);
#endif
}

/* Since 6.3 the flags of a mapping are const, and this is how they change. */
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
 * The range of ports that @sk has of its own (IP_LOCAL_PORT_RANGE), high << 16 |
 * low, 0 for none; under its lock.
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

#endif
