/* SPDX-License-Identifier: GPL-2.0-only */
/* The library's interface to the module: see device.c. */
#ifndef FSOCKET_DEVICE_H
#define FSOCKET_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "../kmod/fastsocket_abi.h"

#pragma GCC visibility push(hidden)

/* The features that the module says are on; all zero until the device is open. */
extern const volatile struct fsocket_features *fsocket_features;

/* Returns whether the device can be opened. */
bool fsocket_device_there(void);

/* Opens the device unless it is open. Prints one message if that is not possible. */
bool fsocket_device_ready(void);

/*
 * Makes an ioctl of the device and returns its result, or -ERRNO. -ENODEV: there is no
 * device, or the program may not use one any more.
 */
int fsocket_device_call(unsigned long call, struct fsocket_ioctl_arg *arg);

/*
 * Returns whether the error says that the ioctl did not reach the module, so that the caller
 * has to make the system call instead.
 */
bool fsocket_device_unasked(int error);

/* Returns whether fd is the device now, by its file and not only by its number. */
bool fsocket_device_is(int fd);

/* Adds to the module's counter of saved calls. */
void fsocket_device_saved(uint32_t count);

/*
 * The program is about to restrict its system calls (seccomp), and the library's calls
 * may get it killed. So the library makes none from now on.
 */
void fsocket_device_confine(void);
bool fsocket_device_confined(void);

#pragma GCC visibility pop

#endif
