/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_RFD_H
#define FSOCKET_RFD_H

#include <linux/types.h>

struct sockaddr_storage;
struct socket;

/*
 * Applies enable_receive_flow_deliver; process context, one caller at a time. Switching
 * off always succeeds.
 *
 *	-ENOMEM
 *	-EOPNOTSUPP  sockets of this kernel have no range of ports of their own
 */
int fsocket_rfd_enable(bool on);

/* Returns whether fsocket_rfd_connect() serves connect(2) on @sock. */
bool fsocket_rfd_serves(const struct socket *sock);

/*
 * Does connect(2) on @sock, which has to be served and to have a file, after the
 * security hook. The source port names the current CPU if the socket has no port yet
 * and such a port is free; else the kernel chooses it.
 */
int fsocket_rfd_connect(struct socket *sock,
			const struct sockaddr_storage *address, int len);

#endif
