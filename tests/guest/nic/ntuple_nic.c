// SPDX-License-Identifier: GPL-2.0-only
/*
 * A network interface "ntuple" for test_ntuple that has ntuple filters and nothing
 * else, since no emulated NIC has any. It keeps them as Intel's ixgbe does, the NIC of
 * the paper: any mask of ports, one mask for all filters, and the caller chooses the
 * place.
 */
#include <linux/ethtool.h>
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>

static unsigned int queues = 64;
module_param(queues, uint, 0444);
MODULE_PARM_DESC(queues, "Queues that it has");

static unsigned int size = 64;
module_param(size, uint, 0444);
MODULE_PARM_DESC(size, "Filters for which it has a place, up to 64");

static bool chooses;
module_param(chooses, bool, 0444);
MODULE_PARM_DESC(chooses, "It chooses the place of a filter itself, if asked to");

static bool whole_ports;
module_param(whole_ports, bool, 0444);
MODULE_PARM_DESC(whole_ports, "It compares whole ports only, as most NICs do");

static struct net_device *nic;
static struct ethtool_rx_flow_spec filters[64];
static bool taken[64];

static netdev_tx_t nic_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

/* ixgbe's filters are also gone when they are switched off. */
static int nic_set_features(struct net_device *dev, netdev_features_t features)
{
	if (!(features & NETIF_F_NTUPLE))
		memset(taken, 0, sizeof(taken));
	return 0;
}

static const struct net_device_ops nic_ops = {
	.ndo_start_xmit = nic_xmit,
	.ndo_set_features = nic_set_features,
};

static int nic_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc,
			 u32 *locations)
{
	unsigned int i, n = 0;

	switch (nfc->cmd) {
	case ETHTOOL_GRXRINGS:
		nfc->data = dev->real_num_rx_queues;
		return 0;
	case ETHTOOL_GRXCLSRLCNT:
		for (i = 0; i < size; i++)
			n += taken[i];
		nfc->rule_cnt = n;
		nfc->data = chooses ? size | RX_CLS_LOC_SPECIAL : 0;
		return 0;
	case ETHTOOL_GRXCLSRLALL:
		for (i = 0; i < size; i++) {
			if (!taken[i])
				continue;
			if (n == nfc->rule_cnt)
				return -EMSGSIZE;
			locations[n++] = i;
		}
		nfc->rule_cnt = n;
		nfc->data = size;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		if (nfc->fs.location >= size || !taken[nfc->fs.location])
			return -EINVAL;
		nfc->fs = filters[nfc->fs.location];
		return 0;
	}
	return -EOPNOTSUPP;
}

static int nic_insert(struct net_device *dev, struct ethtool_rx_flow_spec *fs)
{
	__be16 mask = fs->m_u.tcp_ip4_spec.pdst;
	unsigned int i;

	if (fs->flow_type != TCP_V4_FLOW ||
	    fs->ring_cookie >= dev->real_num_rx_queues)
		return -EINVAL;
	if (whole_ports && mask && mask != htons(0xffff))
		return -EOPNOTSUPP;
	for (i = 0; i < size; i++) {
		if (taken[i] && filters[i].m_u.tcp_ip4_spec.pdst != mask)
			return -EINVAL;
	}
	if (chooses && fs->location == RX_CLS_LOC_ANY) {
		for (i = 0; i < size && taken[i]; i++)
			;
		fs->location = i;
	}
	if (fs->location >= size)
		return -ENOSPC;
	filters[fs->location] = *fs;
	taken[fs->location] = true;
	return 0;
}

static int nic_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *nfc)
{
	ASSERT_RTNL();
	switch (nfc->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		return nic_insert(dev, &nfc->fs);
	case ETHTOOL_SRXCLSRLDEL:
		if (nfc->fs.location >= size || !taken[nfc->fs.location])
			return -EINVAL;
		taken[nfc->fs.location] = false;
		return 0;
	}
	return -EOPNOTSUPP;
}

static const struct ethtool_ops nic_ethtool_ops = {
	.get_rxnfc = nic_get_rxnfc,
	.set_rxnfc = nic_set_rxnfc,
};

static void nic_setup(struct net_device *dev)
{
	ether_setup(dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &nic_ops;
	dev->ethtool_ops = &nic_ethtool_ops;
	dev->hw_features |= NETIF_F_NTUPLE;
	dev->features |= NETIF_F_NTUPLE;
}

static int __init nic_init(void)
{
	int ret;

	size = min_t(unsigned int, size, ARRAY_SIZE(filters));
	nic = alloc_netdev_mqs(0, "ntuple", NET_NAME_USER, nic_setup, queues, queues);
	if (!nic)
		return -ENOMEM;
	ret = register_netdev(nic);
	if (ret)
		free_netdev(nic);
	return ret;
}

static void __exit nic_exit(void)
{
	unregister_netdev(nic);
	free_netdev(nic);
}

module_init(nic_init);
module_exit(nic_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A network interface with ntuple filters, for tests");
