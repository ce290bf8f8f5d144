// SPDX-License-Identifier: GPL-2.0-only
/*
 * An example of a policy of packet redispatch: TCP packets to one port are
 * handled by one CPU. Built beside fastsocket.ko; needs enable_rps_framework=1.
 *
 *	insmod policy_port.ko port=6379 cpu=3
 */
#include <linux/module.h>

#include "../fastsocket_policy.h"

static ushort port;
module_param(port, ushort, 0444);
MODULE_PARM_DESC(port, "Destination port of the packets");

static uint cpu;
module_param(cpu, uint, 0644);
MODULE_PARM_DESC(cpu, "CPU that handles them; can be changed at run time");

static int policy_port_cpu(const struct fastsocket_flow *flow)
{
	return flow->dport == port ? READ_ONCE(cpu) : -1;
}

static struct fastsocket_policy policy_port = {
	.name = "port",
	/* Before RFD and RCS. */
	.rank = 10,
	.cpu = policy_port_cpu,
};

static int __init policy_port_init(void)
{
	fastsocket_policy_register(&policy_port);
	return 0;
}

static void __exit policy_port_exit(void)
{
	fastsocket_policy_unregister(&policy_port);
}

module_init(policy_port_init);
module_exit(policy_port_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Fastsocket: example of a policy, one port to one CPU");
