// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/net/fastsocket shows a header row and one row for each CPU, with the counters of
 * the reader's network namespace. This file also creates
 * /proc/net/fastsocket_listeners (listen_seq.h).
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/seq_file_net.h>
#include <net/net_namespace.h>

#include "listen_seq.h"
#include "proc.h"
#include "sockfs.h"
#include "stats.h"

/* The columns, in the order in which they are shown. */
static const struct {
	const char *name;
	size_t offset;
} fsocket_columns[] = {
#define COLUMN(name) { #name, offsetof(struct fsocket_stats, name) }
	COLUMN(accept_local),
	COLUMN(accept_global),
	COLUMN(accept_remote),
	COLUMN(accept_covered),
	COLUMN(spawn),
	COLUMN(retire),
	COLUMN(moved),
	COLUMN(stolen),
	COLUMN(overdue),
	COLUMN(established_hit),
	COLUMN(established_remote),
	COLUMN(established_miss),
	COLUMN(established_add),
	COLUMN(established_del),
	COLUMN(direct_tcp),
	COLUMN(steer_local),
	COLUMN(steer_remote),
	COLUMN(steer_kept),
	COLUMN(steer_pass),
	COLUMN(steer_drop),
	COLUMN(skb_pool_copy),
	COLUMN(skb_pool_pass),
	COLUMN(skb_pool_send),
	COLUMN(skb_pool_empty),
	COLUMN(rfd_port),
	COLUMN(rfd_exhausted),
	COLUMN(epoll_saved),
#undef COLUMN
};

static const struct {
	const char *name;
	size_t offset;
} fsocket_pool_columns[] = {
#define COLUMN(name) { #name, offsetof(struct fsocket_pool_stats, name) }
	COLUMN(sock_alloc_from_slab),
	COLUMN(sock_free_to_slab),
	COLUMN(sock_alloc_from_pool),
	COLUMN(sock_free_to_pool),
	COLUMN(sock_in_pool),
	COLUMN(sock_pool_lock),
	COLUMN(sock_accept_conns),
#undef COLUMN
};

static int fsocket_stats_show(struct seq_file *seq, void *v)
{
	struct fsocket_stats __percpu *stats;
	struct fsocket_pool_stats pool;
	int cpu, i;

	stats = fsocket_stats_of(seq_file_single_net(seq));
	seq_puts(seq, "cpu");
	for (i = 0; i < ARRAY_SIZE(fsocket_columns); i++)
		seq_printf(seq, " %s", fsocket_columns[i].name);
	for (i = 0; i < ARRAY_SIZE(fsocket_pool_columns); i++)
		seq_printf(seq, " %s", fsocket_pool_columns[i].name);
	for_each_possible_cpu(cpu) {
		const void *counters = per_cpu_ptr(stats, cpu);

		seq_printf(seq, "\n%d", cpu);
		for (i = 0; i < ARRAY_SIZE(fsocket_columns); i++)
			seq_printf(seq, " %llu",
				   *(const u64 *)(counters + fsocket_columns[i].offset));
		fsocket_sockfs_stats(cpu, &pool);
		for (i = 0; i < ARRAY_SIZE(fsocket_pool_columns); i++)
			seq_printf(seq, " %llu",
				   *(const u64 *)((void *)&pool + fsocket_pool_columns[i].offset));
	}
	seq_putc(seq, '\n');
	return 0;
}

static int __net_init fsocket_proc_net_init(struct net *net)
{
	if (!proc_create_net_single("fastsocket", 0444, net->proc_net,
				    fsocket_stats_show, NULL))
		return -ENOMEM;
	if (proc_create_net("fastsocket_listeners", 0444, net->proc_net,
			    &fsocket_listen_seq_ops,
			    sizeof(struct seq_net_private)))
		return 0;
	remove_proc_entry("fastsocket", net->proc_net);
	return -ENOMEM;
}

static void __net_exit fsocket_proc_net_exit(struct net *net)
{
	remove_proc_entry("fastsocket_listeners", net->proc_net);
	remove_proc_entry("fastsocket", net->proc_net);
}

static struct pernet_operations fsocket_proc_net_ops = {
	.init = fsocket_proc_net_init,
	.exit = fsocket_proc_net_exit,
};

int fsocket_proc_init(void)
{
	return register_pernet_subsys(&fsocket_proc_net_ops);
}

void fsocket_proc_exit(void)
{
	unregister_pernet_subsys(&fsocket_proc_net_ops);
}
