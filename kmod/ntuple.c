// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive Flow Deliver by the NIC (section 3.3 of the paper, which uses Intel's Flow
 * Director). An interface whose ntuple filters are on (ethtool -K NIC ntuple on) gets
 * one filter for each CPU. The filter compares those bits of the destination port that
 * name the CPU. The NIC then delivers packets of active connections to the queue of
 * their CPU, and redispatch has nothing to do for them.
 *
 * The module assumes that queue i interrupts CPU i: playbooks/tune.yml sets that, and
 * most drivers do so by default. A filter cannot apply the paper's three rules for
 * active connections. It matches destination ports from 32768 on: by default the kernel
 * chooses all source ports from there, and few servers listen there. Redispatch serves
 * interfaces without filters, such as NICs that compare whole ports only and NICs with
 * fewer queues than the machine has CPUs.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/cpumask.h>
#include <linux/ethtool.h>
#include <linux/mm.h>
#include <linux/netdevice.h>
#include <linux/overflow.h>
#include <linux/slab.h>

#include "ntuple.h"
#include "portbits.h"

/* The lower end of the default net.ipv4.ip_local_port_range; a power of two. */
#define FSOCKET_NTUPLE_PORTS	32768

/* No NIC has a larger table: a driver that reports one is not believed. */
#define FSOCKET_NTUPLE_TABLE_MAX	65536

struct fsocket_ntuple {
	struct list_head in_all;
	struct net_device *dev;
	/* The indices of the filters in the NIC's table. */
	unsigned int count;
	u32 locations[];
};

/* All of struct fsocket_ntuple; under RTNL. */
static LIST_HEAD(fsocket_ntuples);

static int fsocket_rxnfc_get(struct net_device *dev, struct ethtool_rxnfc *nfc,
			     u32 *locations)
{
	if (!dev->ethtool_ops->get_rxnfc)
		return -EOPNOTSUPP;
	return dev->ethtool_ops->get_rxnfc(dev, nfc, locations);
}

/*
 * Finds the @count highest free indices of the NIC's table, as ethtool does, or sets
 * RX_CLS_LOC_ANY if the driver can choose them.
 */
static int fsocket_ntuple_find_places(struct net_device *dev,
				      struct fsocket_ntuple *filters,
				      unsigned int count)
{
	struct ethtool_rxnfc nfc = { .cmd = ETHTOOL_GRXCLSRLCNT };
	unsigned int i, size, found = 0;
	unsigned long *taken = NULL;
	u32 *used = NULL;
	int ret;

	ret = fsocket_rxnfc_get(dev, &nfc, NULL);
	if (ret)
		return ret;
	if (nfc.data & RX_CLS_LOC_SPECIAL) {
		for (i = 0; i < count; i++)
			filters->locations[i] = RX_CLS_LOC_ANY;
		return 0;
	}
	if (nfc.rule_cnt > FSOCKET_NTUPLE_TABLE_MAX)
		return -EINVAL;
	nfc.cmd = ETHTOOL_GRXCLSRLALL;
	used = kvcalloc(nfc.rule_cnt + 1, sizeof(*used), GFP_KERNEL);
	if (!used)
		return -ENOMEM;
	ret = fsocket_rxnfc_get(dev, &nfc, used);
	if (ret)
		goto out;
	size = min_t(u64, nfc.data, FSOCKET_NTUPLE_TABLE_MAX);
	taken = bitmap_zalloc(size, GFP_KERNEL);
	if (!taken) {
		ret = -ENOMEM;
		goto out;
	}
	for (i = 0; i < nfc.rule_cnt; i++) {
		if (used[i] < size)
			set_bit(used[i], taken);
	}
	for (i = size; i-- && found < count;) {
		if (!test_bit(i, taken))
			filters->locations[found++] = i;
	}
	if (found < count)
		ret = -ENOSPC;
out:
	bitmap_free(taken);
	kvfree(used);
	return ret;
}

static int fsocket_ntuple_insert(struct net_device *dev, u32 *location,
				 unsigned int cpu, u16 port, u16 mask)
{
	struct ethtool_rxnfc nfc = { .cmd = ETHTOOL_SRXCLSRLINS };
	int ret;

	/* TCP_V4_FLOW with a mask of 0 is how drivers take "any address". */
	nfc.fs.flow_type = TCP_V4_FLOW;
	nfc.fs.h_u.tcp_ip4_spec.pdst = htons(port);
	nfc.fs.m_u.tcp_ip4_spec.pdst = htons(mask);
	nfc.fs.ring_cookie = cpu;
	nfc.fs.location = *location;
	ret = dev->ethtool_ops->set_rxnfc(dev, &nfc);
	if (!ret)
		*location = nfc.fs.location;
	return ret;
}

static void fsocket_ntuple_remove(struct fsocket_ntuple *filters)
{
	struct ethtool_rxnfc nfc = { .cmd = ETHTOOL_SRXCLSRLDEL };

	while (filters->count) {
		nfc.fs.location = filters->locations[--filters->count];
		filters->dev->ethtool_ops->set_rxnfc(filters->dev, &nfc);
	}
}

static int fsocket_ntuple_fill(struct fsocket_ntuple *filters)
{
	struct net_device *dev = filters->dev;
	unsigned int cpu;
	u16 mask, port;
	int ret;

	if (dev->real_num_rx_queues < nr_cpu_ids)
		return -EOPNOTSUPP;
	ret = fsocket_ntuple_find_places(dev, filters, nr_cpu_ids);
	if (ret)
		return ret;
	for_each_possible_cpu(cpu) {
		port = fsocket_portbits(cpu, &mask) | FSOCKET_NTUPLE_PORTS;
		ret = fsocket_ntuple_insert(dev, &filters->locations[filters->count],
					    cpu, port, mask | FSOCKET_NTUPLE_PORTS);
		if (ret) {
			fsocket_ntuple_remove(filters);
			return ret;
		}
		filters->count++;
	}
	return 0;
}

static struct fsocket_ntuple *fsocket_ntuple_of(const struct net_device *dev)
{
	struct fsocket_ntuple *filters;

	list_for_each_entry(filters, &fsocket_ntuples, in_all) {
		if (filters->dev == dev)
			return filters;
	}
	return NULL;
}

static void fsocket_ntuple_add(struct net_device *dev)
{
	const struct ethtool_ops *ops = dev->ethtool_ops;
	struct fsocket_ntuple *filters;
	int ret = 0;

	if (fsocket_ntuple_of(dev) || !ops || !ops->set_rxnfc)
		return;
	filters = kzalloc(struct_size(filters, locations, nr_cpu_ids), GFP_KERNEL);
	if (!filters)
		return;
	filters->dev = dev;
	if (ops->begin)
		ret = ops->begin(dev);
	if (!ret) {
		ret = fsocket_ntuple_fill(filters);
		if (ops->complete)
			ops->complete(dev);
	}
	if (ret) {
		pr_info("%s: no ntuple filters (error %d): source ports are left to redispatch\n",
			netdev_name(dev), ret);
		kfree(filters);
		return;
	}
	list_add(&filters->in_all, &fsocket_ntuples);
	pr_info("%s: %u ntuple filters deliver by source port\n",
		netdev_name(dev), filters->count);
}

static void fsocket_ntuple_del(struct net_device *dev)
{
	const struct ethtool_ops *ops = dev->ethtool_ops;
	struct fsocket_ntuple *filters = fsocket_ntuple_of(dev);

	if (!filters)
		return;
	list_del(&filters->in_all);
	if (!ops->begin || !ops->begin(dev)) {
		fsocket_ntuple_remove(filters);
		if (ops->complete)
			ops->complete(dev);
	}
	kfree(filters);
}

/*
 * register_netdevice_notifier() also reports the interfaces that are up already, and
 * unregister_netdevice_notifier() reports them as going down.
 */
static int fsocket_ntuple_event(struct notifier_block *nb, unsigned long event,
				void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);

	switch (event) {
	case NETDEV_UP:
	case NETDEV_FEAT_CHANGE:
		if (dev->features & NETIF_F_NTUPLE && dev->flags & IFF_UP)
			fsocket_ntuple_add(dev);
		else
			fsocket_ntuple_del(dev);
		break;
	case NETDEV_GOING_DOWN:
		fsocket_ntuple_del(dev);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block fsocket_ntuple_notifier = {
	.notifier_call = fsocket_ntuple_event,
};

int fsocket_ntuple_enable(bool on)
{
	return on ? register_netdevice_notifier(&fsocket_ntuple_notifier) :
		    unregister_netdevice_notifier(&fsocket_ntuple_notifier);
}
