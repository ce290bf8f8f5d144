/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The ioctl interface of /dev/fastsocket, shared by the module and by
 * libfsocket.so.
 *
 * Numbers 1 to 8 and the layout of struct fsocket_ioctl_arg (x86-64) are those
 * that the original Fastsocket published in 2014: a program built for it runs
 * unchanged. New calls get new numbers.
 */
#ifndef FASTSOCKET_ABI_H
#define FASTSOCKET_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define FSOCKET_DEVICE "/dev/fastsocket"

/*
 * Every call returns -1 and sets errno on error. Common to all of them:
 * EFAULT (bad pointer), EBADF (fd is not open), ENOTSOCK (fd is no socket),
 * ENOTTY (no such call).
 */

/* socket(2) with op.socket_op; returns the new fd. */
#define FSOCKET_IOC_SOCKET _IO(0xf5, 0x01)
/*
 * listen(2) on fd with backlog, and marks fd for SPAWN_ALL_LISTEN. A socket
 * that cannot have local listeners (see SPAWN_LISTEN) listens all the same.
 */
#define FSOCKET_IOC_LISTEN _IO(0xf5, 0x02)
/*
 * accept4(2) with op.accept_op; returns the new fd. With enable_socket_pool_size
 * a TCP connection gets its inode from the pool of the CPU.
 */
#define FSOCKET_IOC_ACCEPT _IO(0xf5, 0x03)
/* Retires what this process spawned on fd, then close(2). */
#define FSOCKET_IOC_CLOSE _IO(0xf5, 0x04)
/* 5 was EPOLL_CTL, never enabled by the original. */

/*
 * Gives the calling thread a local listener of the listening TCP socket fd on
 * CPU op.spawn_op.cpu, or, for -1, on the CPU to which the thread is pinned or
 * (enable_listen_spawn=2) to which the module pins it: the allowed CPU with the
 * fewest workers, and of several such the one whose newest worker is the oldest.
 * Connections whose SYN that CPU handles are then queued there.
 * Repeating the call is harmless; several workers may share a CPU. What was
 * spawned is retired by RETIRE_LISTEN, by closing fd through CLOSE, and when
 * the process closes the device or dies; connections still queued move to the
 * shared accept queue of fd.
 *
 * EPERM       enable_listen_spawn is 0; or it is 1 and the thread is not
 *             pinned to one CPU
 * EINVAL      fd does not listen; no such CPU; it is offline or not among the
 *             CPUs allowed to the thread
 * EOPNOTSUPP  fd is no TCP socket, or has an option that local listeners
 *             cannot carry (the kernel log names it): a socket filter, a
 *             program that selects SO_REUSEPORT sockets, TCP_MD5SIG,
 *             TCP_FASTOPEN, an ULP, IP options, timestamps
 * ENOMEM
 */
#define FSOCKET_IOC_SPAWN_LISTEN _IO(0xf5, 0x06)
/* shutdown(2) with op.shutdown_op.how. */
#define FSOCKET_IOC_SHUTDOWN_LISTEN _IO(0xf5, 0x07)
/*
 * Does SPAWN_LISTEN with cpu -1 on every fd of the process that LISTEN marked or on
 * which any process has spawned. Returns the first error, after trying them all. The
 * argument is not read.
 */
#define FSOCKET_IOC_SPAWN_ALL_LISTEN _IO(0xf5, 0x08)
/*
 * Retires what the calling thread spawned on fd, and keeps fd open. Returns 0 also if
 * there was nothing to retire. Not in the original.
 */
#define FSOCKET_IOC_RETIRE_LISTEN _IO(0xf5, 0x09)

/*
 * connect(2) on fd with op.connect_op. With enable_receive_flow_deliver=1 an unbound
 * TCP socket gets a source port that names the calling CPU or, if none is free, a port
 * that the kernel chooses. Not in the original.
 */
#define FSOCKET_IOC_CONNECT _IO(0xf5, 0x0a)

/*
 * Adds backlog to the column epoll_saved of /proc/net/fastsocket: the number of epoll
 * system calls that libfsocket.so has saved this process. Not in the original.
 *
 *	EINVAL      backlog is above FSOCKET_EPOLL_SAVED_MAX
 */
#define FSOCKET_IOC_EPOLL_SAVED _IO(0xf5, 0x0b)
#define FSOCKET_EPOLL_SAVED_MAX 65536

/*
 * mmap(PROT_READ) of the device maps this one page, at offset 0 (else EINVAL; EPERM
 * with PROT_WRITE). The module changes the words whenever a parameter changes; the
 * words behind the last member are 0. Not in the original.
 */
struct fsocket_features {
	/* enable_fast_epoll: 0 or 1. */
	__u32 fast_epoll;
	/* 1 if ACCEPT takes from a pool of sockets (enable_socket_pool_size), else 0. */
	__u32 socket_pool;
	/* enable_receive_flow_deliver: 0 or 1. */
	__u32 receive_flow_deliver;
};

struct fsocket_ioctl_arg {
	__u32 fd;
	__u32 backlog;

	union {
		struct {
			void *sockaddr;
			int *sockaddr_len;
			int flags;
		} accept_op;

		struct {
			int cpu;
		} spawn_op;

		struct {
			char *buf;
			__u32 buf_len;
		} io_op;

		struct {
			__u32 family;
			__u32 type;
			__u32 protocol;
		} socket_op;

		struct {
			int how;
		} shutdown_op;

		struct {
			const void *sockaddr;
			int sockaddr_len;
		} connect_op;

		struct {
			__u32 epoll_fd;
			__u32 size;
			__u32 ep_ctl_cmd;
			__u32 time_out;
			void *ev;
		} epoll_op;
	} op;
};

#endif
