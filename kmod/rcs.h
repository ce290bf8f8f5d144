/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_RCS_H
#define FSOCKET_RCS_H

#include <linux/types.h>

/*
 * Applies the parameter enable_receive_cpu_selection. Called in process context, by one
 * caller at a time.
 */
int fsocket_rcs_enable(bool on);

#endif
