/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_RFD_H
#define FSOCKET_RFD_H

#include <linux/types.h>

struct sockaddr_storage;
struct socket;

/*
 * Applies enable_receive_flow_deliver; process context, one caller at a time.
 * Off always succeeds.
 *
 * -ENOMEM
 * -EOPNOTSUPP  sockets of this kernel have no range of ports of their own
 */
int fsocket_rfd_enable(bool on);

/* Whether connect(2) on @sock is fsocket_rfd_connect()'s. */
bool fsocket_rfd_serves(const struct socket *sock);

/*
 * connect(2) on @sock, which has to be served and have a file, after the security
 * hook: from a port that names the CPU we are on, if the socket has no port yet
 * and one is free, else from the kernel's choice.
 */
int fsocket_rfd_connect(struct socket *sock,
			const struct sockaddr_storage *address, int len);

#endif
