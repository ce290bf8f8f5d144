/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_DEVICE_H
#define FSOCKET_DEVICE_H

/* The address of a function that the kernel does not export, or NULL. */
void *fsocket_resolve(const char *symbol);

int fsocket_device_init(void);
void fsocket_device_exit(void);

#endif
