// SPDX-License-Identifier: GPL-2.0-only
/*
 * Module parameters, with the names and defaults of the original. All can be
 * read and changed at run time in /sys/module/fastsocket/parameters; a value
 * out of range gets EINVAL.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/moduleparam.h>

#include "params.h"

static unsigned int enable_listen_spawn = FSOCKET_SPAWN_PIN;
static unsigned int enable_fastsocket_debug = 3;

static int fsocket_param_set(const char *val, const struct kernel_param *kp,
			     unsigned int max)
{
	int ret = param_set_uint_minmax(val, kp, 0, max);

	if (ret)
		pr_info("%s=%.32s refused: allowed are 0 to %u\n", kp->name,
			val, max);
	return ret;
}

static int fsocket_spawn_set(const char *val, const struct kernel_param *kp)
{
	return fsocket_param_set(val, kp, FSOCKET_SPAWN_PIN);
}

static int fsocket_debug_set(const char *val, const struct kernel_param *kp)
{
	return fsocket_param_set(val, kp, FSOCKET_DEBUG + 1);
}

static const struct kernel_param_ops fsocket_spawn_ops = {
	.set = fsocket_spawn_set,
	.get = param_get_uint,
};

static const struct kernel_param_ops fsocket_debug_ops = {
	.set = fsocket_debug_set,
	.get = param_get_uint,
};

/* A change concerns later spawns; what is already spawned stays. */
module_param_cb(enable_listen_spawn, &fsocket_spawn_ops, &enable_listen_spawn, 0644);
MODULE_PARM_DESC(enable_listen_spawn, "Local listeners: 0 = disabled, 1 = only for workers already pinned to one CPU, 2 = the module pins the worker [default]");

module_param_cb(enable_fastsocket_debug, &fsocket_debug_ops, &enable_fastsocket_debug, 0644);
MODULE_PARM_DESC(enable_fastsocket_debug, "Log what is less severe than: 0 = nothing, 1 = alerts, 2 = errors, 3 = warnings too [default], 4 = information, 5 = debugging");

enum fsocket_spawn_mode fsocket_spawn_mode(void)
{
	return READ_ONCE(enable_listen_spawn);
}

int fsocket_debug_level(void)
{
	return READ_ONCE(enable_fastsocket_debug);
}

/* One line for each feature: what the kernel log says after modprobe. */
void fsocket_params_report(void)
{
	static const char * const spawn[] = {
		[FSOCKET_SPAWN_OFF] = "disabled",
		[FSOCKET_SPAWN_PINNED] = "for workers already pinned to one CPU",
		[FSOCKET_SPAWN_PIN] = "enabled, workers are pinned",
	};

	pr_info("enable_listen_spawn=%u: local listeners %s\n",
		enable_listen_spawn, spawn[fsocket_spawn_mode()]);
	pr_info("enable_fastsocket_debug=%u\n", enable_fastsocket_debug);
}
