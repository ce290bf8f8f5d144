/* SPDX-License-Identifier: GPL-2.0-only */
/* The module, as the library sees it: see device.c. */
#ifndef FSOCKET_DEVICE_H
#define FSOCKET_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "../kmod/fastsocket_abi.h"

#pragma GCC visibility push(hidden)

/* What the module says is on; all zero until the device is open. */
extern const volatile struct fsocket_features *fsocket_features;

/* Whether it can be opened. */
bool fsocket_device_there(void);

/* Opens the device unless it is open. Where it cannot, that is said once. */
bool fsocket_device_ready(void);

/*
 * An ioctl of the device; what it returns, or -ERRNO. -ENODEV: there is no device,
 * or none may be used any more.
 */
int fsocket_device_call(unsigned long call, struct fsocket_ioctl_arg *arg);

/* Whether the error says that the module was not asked at all, so that the kernel has to be. */
bool fsocket_device_unasked(int error);

/* Whether fd is our device now, and not only by its number. */
bool fsocket_device_is(int fd);

/* How the counter of spared calls reaches the module. */
void fsocket_device_saved(uint32_t count);

/*
 * The program is about to be told which system calls it may make (seccomp). Ours
 * may kill it then, so there are none from now on.
 */
void fsocket_device_confine(void);
bool fsocket_device_confined(void);

/* Whether we are a child that shares the memory of its parent (vfork()), not its descriptors. */
bool fsocket_device_borrowed(void);

/* We are a new process that has what its parent had. */
void fsocket_device_in_child(void);

#pragma GCC visibility pop

#endif
