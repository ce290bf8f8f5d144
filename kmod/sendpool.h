/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_SENDPOOL_H
#define FSOCKET_SENDPOOL_H

#include <linux/types.h>

/*
 * Switches the sending side of the skb pool on or off. Called in process context, by one
 * caller at a time. Returns -EOPNOTSUPP if ftrace cannot redirect tcp_stream_alloc_skb();
 * the kernel log says why.
 */
int fsocket_sendpool_enable(bool on);

#endif
