/* SPDX-License-Identifier: GPL-2.0-only */
/* The module's device, for test programs that ask for local listeners themselves. */
#ifndef TESTS_GUEST_DEVICE_H
#define TESTS_GUEST_DEVICE_H

#include "helpers.h"

static int dev = -1;

static inline int call_dev(unsigned long cmd, int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	return ioctl(dev, cmd, &arg);
}

static inline int spawn(int fd, int cpu)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.spawn_op.cpu = cpu;
	return ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
}

static inline int retire(int fd)
{
	return call_dev(FSOCKET_IOC_RETIRE_LISTEN, fd);
}

#endif
