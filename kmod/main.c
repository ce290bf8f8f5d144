// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fastsocket on a stock kernel: brings the parts up in order, and down in
 * reverse.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>

#include "device.h"
#include "features.h"
#include "listen.h"
#include "params.h"
#include "portbits.h"
#include "proc.h"
#include "stats.h"
#include "steer.h"

static int __init fsocket_init(void)
{
	int ret;

	ret = fsocket_stats_init();
	if (ret)
		goto err_stats;
	ret = fsocket_features_init();
	if (ret)
		goto err_features;
	ret = fsocket_listen_init();
	if (ret)
		goto err_listen;
	ret = fsocket_steer_init();
	if (ret)
		goto err_steer;
	fsocket_portbits_init();
	ret = fsocket_params_init();
	if (ret)
		goto err_params;
	ret = fsocket_proc_init();
	if (ret)
		goto err_proc;
	ret = fsocket_device_init();
	if (ret)
		goto err_device;

	fsocket_params_report();
	return 0;

err_device:
	fsocket_proc_exit();
err_proc:
	fsocket_params_exit();
err_params:
	fsocket_steer_exit();
err_steer:
	fsocket_listen_exit();
err_listen:
	fsocket_features_exit();
err_features:
	fsocket_stats_exit();
err_stats:
	pr_err("not loaded: error %d\n", ret);
	return ret;
}

static void __exit fsocket_exit(void)
{
	fsocket_device_exit();
	fsocket_proc_exit();
	fsocket_params_exit();
	fsocket_steer_exit();
	fsocket_listen_exit();
	fsocket_features_exit();
	fsocket_stats_exit();
	pr_info("unloaded\n");
}

module_init(fsocket_init);
module_exit(fsocket_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
MODULE_DESCRIPTION("Fastsocket: per-CPU TCP for unmodified servers on stock kernels");
