/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_DEVICE_H
#define FSOCKET_DEVICE_H

int fsocket_device_init(void);
void fsocket_device_exit(void);

#endif
