/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_STEER_H
#define FSOCKET_STEER_H

#include <linux/types.h>

int fsocket_steer_init(void);
void fsocket_steer_exit(void);

/* Applies enable_rps_framework; process context, one caller at a time. */
int fsocket_steer_enable(bool on);

#endif
