/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_SENDPOOL_H
#define FSOCKET_SENDPOOL_H

#include <linux/types.h>

/*
 * Applies bit 2 of enable_skb_pool; process context, one caller at a time.
 * EOPNOTSUPP: ftrace cannot redirect the kernel's allocator here; the kernel log
 * says why.
 */
int fsocket_sendpool_enable(bool on);

#endif
