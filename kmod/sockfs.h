/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_SOCKFS_H
#define FSOCKET_SOCKFS_H

#include <linux/types.h>

struct file;
struct fsocket_ioctl_arg;
struct fsocket_pool_stats;

/*
 * Applies enable_socket_pool_size: each CPU's pool gets room for @size sockets; 0 switches
 * the pool off. May sleep; one caller at a time. Sockets that are open or being accepted
 * are not affected.
 *
 * -EOPNOTSUPP  this kernel does not let the module do what accept4(2) does (the kernel
 *		log says why)
 * -ENOMEM
 */
int fsocket_sockfs_resize(unsigned int size);

/* The largest size for which the full pools take a quarter of the memory. */
unsigned int fsocket_sockfs_size_max(void);

/* Whether fsocket_sockfs_accept() can do accept4(2) on @listener with @flags. */
bool fsocket_sockfs_serves(struct file *listener, int flags);

/*
 * Does accept4(2) on @listener, for which fsocket_sockfs_serves() was true. Returns the new
 * fd or an error.
 */
int fsocket_sockfs_accept(struct file *listener,
			  const struct fsocket_ioctl_arg *arg);

/* Reads the counters of @cpu into @stats, for which it looks at each socket of the pool. */
void fsocket_sockfs_stats(int cpu, struct fsocket_pool_stats *stats);

#endif
