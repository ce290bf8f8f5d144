// SPDX-License-Identifier: GPL-2.0-only
/*
 * Module parameters. enable_local_established and steal_after_ms are this module's own;
 * all others have the names and defaults of the original. All can be read and changed at
 * run time in /sys/module/fastsocket/parameters; a value out of range gets EINVAL.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "claim.h"
#include "established.h"
#include "features.h"
#include "late.h"
#include "log.h"
#include "params.h"
#include "rcs.h"
#include "rfd.h"
#include "sendpool.h"
#include "skbpool.h"
#include "sockfs.h"
#include "steer.h"

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

/* A change applies to later spawns only. */
module_param_cb(enable_listen_spawn, &fsocket_spawn_ops, &fsocket_spawn_mode, 0644);
MODULE_PARM_DESC(enable_listen_spawn, "Local listeners: 0 = disabled, 1 = only for workers already pinned to one CPU, 2 = the module pins the worker [default]");

module_param_cb(enable_fastsocket_debug, &fsocket_debug_ops, &fsocket_log_level, 0644);
MODULE_PARM_DESC(enable_fastsocket_debug, "Messages in the kernel log: 0 = none, 1 = alerts, 2 = errors too, 3 = warnings too [default], 4 = information too, 5 = debugging too");

/* A feature that is on or off. All of its members are protected by kernel_param_lock(). */
struct fsocket_switch {
	const char *name;
	const char *what;
	int (*apply)(bool on);
	bool on;
};

/* True between loading and unloading: a change of the parameter then acts at once. */
static bool fsocket_live;

static int fsocket_switch_to(struct fsocket_switch *feature, bool on)
{
	int ret = 0;

	if (fsocket_live && on != feature->on)
		ret = feature->apply(on);
	if (!ret)
		feature->on = on;
	return ret;
}

static int fsocket_switch_set(const char *val, const struct kernel_param *kp)
{
	unsigned int on;
	int ret;

	ret = kstrtouint(val, 0, &on);
	if (ret || on > 1) {
		pr_info("%s=%.32s refused: allowed are 0 and 1\n", kp->name, val);
		return -EINVAL;
	}
	ret = fsocket_switch_to(kp->arg, on);
	if (ret)
		pr_info("%s=%u refused: error %d\n", kp->name, on, ret);
	return ret;
}

static int fsocket_switch_get(char *buffer, const struct kernel_param *kp)
{
	const struct fsocket_switch *feature = kp->arg;

	return sysfs_emit(buffer, "%u\n", feature->on);
}

static const struct kernel_param_ops fsocket_switch_ops = {
	.set = fsocket_switch_set,
	.get = fsocket_switch_get,
};

static int fsocket_apply_framework(bool on);
static int fsocket_apply_rfd(bool on);
static int fsocket_apply_rcs(bool on);
static int fsocket_apply_skb_receive(bool on);

static struct fsocket_switch fsocket_local_established = {
	.name = "enable_local_established",
	.what = "local established tables",
	.apply = fsocket_established_enable,
};

static struct fsocket_switch fsocket_direct_tcp = {
	.name = "enable_direct_tcp",
	.what = "routing skipped for established connections",
	.apply = fsocket_direct_tcp_enable,
};

static struct fsocket_switch fsocket_framework = {
	.name = "enable_rps_framework",
	.what = "packet redispatch",
	.apply = fsocket_apply_framework,
};

static struct fsocket_switch fsocket_rfd = {
	.name = "enable_receive_flow_deliver",
	.what = "source ports that name the CPU",
	.apply = fsocket_apply_rfd,
};

/* The two bits, 1 and 2, of one parameter. */
static struct fsocket_switch fsocket_skb_receive = {
	.name = "enable_skb_pool",
	.what = "redispatched packets copied to memory of their CPU",
	.apply = fsocket_apply_skb_receive,
};

static struct fsocket_switch fsocket_skb_send = {
	.name = "enable_skb_pool",
	.what = "packets to send made in advance",
	.apply = fsocket_sendpool_enable,
};

static struct fsocket_switch fsocket_rcs = {
	.name = "enable_receive_cpu_selection",
	.what = "packets to the CPU that sends",
	.apply = fsocket_apply_rcs,
};

static struct fsocket_switch fsocket_fast_epoll = {
	.name = "enable_fast_epoll",
	.what = "epoll system calls spared by the library",
	.apply = fsocket_features_set_fast_epoll,
	.on = true,
};

/* In the order in which they are switched on, since RCS needs the framework. */
static struct fsocket_switch * const fsocket_switches[] = {
	&fsocket_local_established,
	&fsocket_direct_tcp,
	&fsocket_framework,
	&fsocket_rfd,
	&fsocket_rcs,
	&fsocket_skb_receive,
	&fsocket_skb_send,
	&fsocket_fast_epoll,
};

/*
 * RCS is a policy of the framework, and the skb pool's receiving side handles packets
 * that the framework hands over. RFD does not need the framework where the filters of
 * NICs deliver its packets.
 */
static int fsocket_apply_framework(bool on)
{
	if (!on && fsocket_live && (fsocket_rcs.on || fsocket_skb_receive.on)) {
		pr_info("%s needs enable_rps_framework: switch that off first\n",
			fsocket_rcs.on ? fsocket_rcs.name : fsocket_skb_receive.name);
		return -EBUSY;
	}
	return fsocket_steer_enable(on);
}

/* @feature does nothing without the framework, so this switches the framework on, too. */
static int fsocket_apply_within(const struct fsocket_switch *feature, bool on,
				int (*enable)(bool on))
{
	bool alone = on && !fsocket_framework.on;
	int ret = alone ? fsocket_steer_enable(true) : 0;

	if (ret)
		return ret;
	ret = enable(on);
	if (ret && alone)
		fsocket_steer_enable(false);
	if (ret || !alone)
		return ret;
	fsocket_framework.on = true;
	pr_info("%s needs enable_rps_framework=1, which is switched on, too\n",
		feature->name);
	return 0;
}

static int fsocket_apply_rfd(bool on)
{
	return fsocket_rfd_enable(on) ?:
	       fsocket_features_set_receive_flow_deliver(on);
}

static int fsocket_apply_rcs(bool on)
{
	return fsocket_apply_within(&fsocket_rcs, on, fsocket_rcs_enable);
}

static int fsocket_apply_skb_receive(bool on)
{
	return fsocket_apply_within(&fsocket_skb_receive, on, fsocket_skbpool_enable);
}

static unsigned int fsocket_skb_pool_mode(void)
{
	return fsocket_skb_receive.on | fsocket_skb_send.on << 1;
}

static int fsocket_skb_pool_set(const char *val, const struct kernel_param *kp)
{
	bool was = fsocket_skb_receive.on;
	unsigned int mode;
	int ret;

	ret = kstrtouint(val, 0, &mode);
	if (ret || mode > 3) {
		pr_info("%s=%.32s refused: allowed are 0 to 3\n", kp->name, val);
		return -EINVAL;
	}
	ret = fsocket_switch_to(&fsocket_skb_receive, mode & 1);
	if (!ret) {
		ret = fsocket_switch_to(&fsocket_skb_send, mode & 2);
		if (ret && fsocket_switch_to(&fsocket_skb_receive, was))
			pr_info("%s is %u now\n", kp->name, fsocket_skb_pool_mode());
	}
	if (ret)
		pr_info("%s=%u refused: error %d\n", kp->name, mode, ret);
	return ret;
}

static int fsocket_skb_pool_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%u\n", fsocket_skb_pool_mode());
}

static const struct kernel_param_ops fsocket_skb_pool_ops = {
	.set = fsocket_skb_pool_set,
	.get = fsocket_skb_pool_get,
};

module_param_cb(enable_local_established, &fsocket_switch_ops, &fsocket_local_established, 0644);
MODULE_PARM_DESC(enable_local_established, "Per-CPU tables of established connections: 0 = off [default], 1 = on");

module_param_cb(enable_direct_tcp, &fsocket_switch_ops, &fsocket_direct_tcp, 0644);
MODULE_PARM_DESC(enable_direct_tcp, "Packets of established connections skip the routing decision: 0 = off [default], 1 = on");

module_param_cb(enable_rps_framework, &fsocket_switch_ops, &fsocket_framework, 0644);
MODULE_PARM_DESC(enable_rps_framework, "Policies choose the CPU of received TCP packets: 0 = off [default], 1 = on");

module_param_cb(enable_receive_flow_deliver, &fsocket_switch_ops, &fsocket_rfd, 0644);
MODULE_PARM_DESC(enable_receive_flow_deliver, "Active connections get source ports that name their CPU, to which the framework or the NIC delivers: 0 = off [default], 1 = on");

module_param_cb(enable_receive_cpu_selection, &fsocket_switch_ops, &fsocket_rcs, 0644);
MODULE_PARM_DESC(enable_receive_cpu_selection, "The framework delivers to the CPU where the connection's program sends: 0 = off [default], 1 = on");

module_param_cb(enable_fast_epoll, &fsocket_switch_ops, &fsocket_fast_epoll, 0644);
MODULE_PARM_DESC(enable_fast_epoll, "The library omits epoll system calls whose effect no program can see: 0 = off, 1 = on [default]");

static unsigned int enable_socket_pool_size;

static int fsocket_pool_size_set(const char *val, const struct kernel_param *kp)
{
	unsigned int size, max = fsocket_sockfs_size_max();
	int ret;

	ret = kstrtouint(val, 0, &size);
	if (ret || size > max) {
		pr_info("%s=%.32s refused: allowed are 0 to %u here\n", kp->name,
			val, max);
		return -EINVAL;
	}
	if (fsocket_live && size != enable_socket_pool_size) {
		ret = fsocket_sockfs_resize(size);
		if (ret) {
			pr_info("%s=%u refused: error %d\n", kp->name, size, ret);
			return ret;
		}
	}
	enable_socket_pool_size = size;
	return 0;
}

static const struct kernel_param_ops fsocket_pool_size_ops = {
	.set = fsocket_pool_size_set,
	.get = param_get_uint,
};

module_param_cb(enable_socket_pool_size, &fsocket_pool_size_ops, &enable_socket_pool_size, 0644);
MODULE_PARM_DESC(enable_socket_pool_size, "Sockets that each CPU keeps for connections accepted later: 0 = disabled [default], at most what a quarter of the memory holds");

module_param_cb(enable_skb_pool, &fsocket_skb_pool_ops, NULL, 0644);
MODULE_PARM_DESC(enable_skb_pool, "Pools of packets: 0 = off [default], 1 = received packets that the framework hands over are copied to memory of their CPU, 2 = packets to send are allocated in advance, 3 = both");

static int fsocket_steal_set(const char *val, const struct kernel_param *kp)
{
	int ret = param_set_uint_minmax(val, kp, 1, 10000);

	if (ret)
		pr_info("%s=%.32s refused: allowed are 1 to 10000\n", kp->name, val);
	return ret;
}

static const struct kernel_param_ops fsocket_steal_ops = {
	.set = fsocket_steal_set,
	.get = param_get_uint,
};

module_param_cb(steal_after_ms, &fsocket_steal_ops, &fsocket_steal_after_ms, 0644);
MODULE_PARM_DESC(steal_after_ms, "Milliseconds after which connections that wait for a worker that sleeps go to others, if another worker sleeps, too: 1 to 10000, 8 [default]; rounded to the kernel's ticks; for a worker that runs, 25 checks, one each half of this time and at most one each tick");

static void fsocket_switches_off(int count)
{
	while (count--) {
		if (fsocket_switches[count]->on)
			fsocket_switches[count]->apply(false);
	}
}

int fsocket_params_init(void)
{
	int i, ret = 0;

	kernel_param_lock(THIS_MODULE);
	for (i = 0; i < ARRAY_SIZE(fsocket_switches); i++) {
		if (!fsocket_switches[i]->on)
			continue;
		ret = fsocket_switches[i]->apply(true);
		if (ret) {
			fsocket_switches_off(i);
			break;
		}
	}
	if (!ret) {
		ret = fsocket_sockfs_resize(enable_socket_pool_size);
		if (ret)
			fsocket_switches_off(ARRAY_SIZE(fsocket_switches));
	}
	fsocket_live = !ret;
	kernel_param_unlock(THIS_MODULE);
	return ret;
}

void fsocket_params_exit(void)
{
	kernel_param_lock(THIS_MODULE);
	fsocket_live = false;
	fsocket_sockfs_resize(0);
	fsocket_switches_off(ARRAY_SIZE(fsocket_switches));
	kernel_param_unlock(THIS_MODULE);
}

/* Logs one line for each feature after modprobe. */
void fsocket_params_report(void)
{
	static const char * const spawn[] = {
		[FSOCKET_SPAWN_OFF] = "disabled",
		[FSOCKET_SPAWN_PINNED] = "for workers already pinned to one CPU",
		[FSOCKET_SPAWN_PIN] = "enabled, workers are pinned",
	};
	int i;

	pr_info("enable_listen_spawn=%u: local listeners %s\n",
		fsocket_spawn_mode, spawn[fsocket_spawn_mode]);
	for (i = 0; i < ARRAY_SIZE(fsocket_switches); i++) {
		const struct fsocket_switch *feature = fsocket_switches[i];
		bool half = feature == &fsocket_skb_receive ||
			    feature == &fsocket_skb_send;

		pr_info("%s=%u: %s %s\n", feature->name,
			half ? fsocket_skb_pool_mode() : feature->on,
			feature->what, feature->on ? "enabled" : "disabled");
	}
	pr_info("enable_socket_pool_size=%u: pool of sockets %s\n",
		enable_socket_pool_size,
		enable_socket_pool_size ? "enabled" : "disabled");
	pr_info("enable_fastsocket_debug=%u\n", fsocket_log_level);
}
