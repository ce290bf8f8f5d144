/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_ESTABLISHED_H
#define FSOCKET_ESTABLISHED_H

#include <linux/types.h>

/*
 * Apply the parameters enable_local_established and enable_direct_tcp. Called in process
 * context, by one caller at a time. Switching off never fails.
 */
int fsocket_established_enable(bool on);
int fsocket_direct_tcp_enable(bool on);

#endif
