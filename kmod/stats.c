// SPDX-License-Identifier: GPL-2.0-only
/* This file keeps the counters of each network namespace. proc.c shows them. */
#include <net/net_namespace.h>
#include <net/netns/generic.h>

#include "stats.h"

struct fsocket_net {
	struct fsocket_stats __percpu *stats;
};

static unsigned int fsocket_net_id;

struct fsocket_stats __percpu *fsocket_stats_of(struct net *net)
{
	struct fsocket_net *fn = net_generic(net, fsocket_net_id);

	return fn->stats;
}

static int __net_init fsocket_net_init(struct net *net)
{
	struct fsocket_net *fn = net_generic(net, fsocket_net_id);

	fn->stats = alloc_percpu(struct fsocket_stats);
	return fn->stats ? 0 : -ENOMEM;
}

static void __net_exit fsocket_net_exit(struct net *net)
{
	struct fsocket_net *fn = net_generic(net, fsocket_net_id);

	free_percpu(fn->stats);
}

static struct pernet_operations fsocket_net_ops = {
	.init = fsocket_net_init,
	.exit = fsocket_net_exit,
	.id = &fsocket_net_id,
	.size = sizeof(struct fsocket_net),
};

int fsocket_stats_init(void)
{
	return register_pernet_subsys(&fsocket_net_ops);
}

void fsocket_stats_exit(void)
{
	unregister_pernet_subsys(&fsocket_net_ops);
}
