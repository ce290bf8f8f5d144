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

static inline void wait_for(int (*done)(void))
{
	await(done());
}

static inline int unload(void)
{
	return syscall(SYS_delete_module, "fastsocket", O_NONBLOCK);
}

static inline int unloaded(void)
{
	return !unload();
}

static inline int has_device(void)
{
	return !access(FSOCKET_DEVICE, F_OK);
}

/* Loads the module that FASTSOCKET_KO names; udev makes the device a little later. */
static inline void load_again(void)
{
	const char *ko = getenv("FASTSOCKET_KO");

	assert_non_null(ko);
	assert_ok(load_module(ko, ""));
	wait_for(has_device);
}

#endif
