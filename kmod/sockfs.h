/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_SOCKFS_H
#define FSOCKET_SOCKFS_H

#include <linux/types.h>

struct file;
struct fsocket_ioctl_arg;
struct fsocket_pool_stats;

/*
 * Applies enable_socket_pool_size: @size sockets for each CPU, 0 for off. May
 * sleep; one caller at a time. Sockets in use, and those that are just being
 * accepted, stay what they are.
 *
 * -EOPNOTSUPP  the kernel's accept() cannot be followed here (the log says why)
 * -ENOMEM
 */
int fsocket_sockfs_resize(unsigned int size);

/* The largest size for which a full pool fits into memory (a quarter of it). */
unsigned int fsocket_sockfs_size_max(void);

/* Whether accept4(2) on @listener with @flags is fsocket_sockfs_accept()'s. */
bool fsocket_sockfs_serves(struct file *listener, int flags);

/* accept4(2) on @listener, which has to be served; the new fd, or an error. */
int fsocket_sockfs_accept(struct file *listener,
			  const struct fsocket_ioctl_arg *arg);

/* The counters of @cpu; looks at each socket of its pool. */
void fsocket_sockfs_stats(int cpu, struct fsocket_pool_stats *stats);

#endif
