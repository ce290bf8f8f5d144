// SPDX-License-Identifier: GPL-2.0-only
#include "groups.h"

#include <stdbool.h>
#include <string.h>

const char *const group_names[GROUPS] = {
	[GROUP_LISTENER] = "listener",
	[GROUP_EPOLL] = "epoll",
	[GROUP_EHASH] = "ehash",
	[GROUP_BIND] = "bind bucket and TIME_WAIT",
	[GROUP_MEMORY] = "memory",
	[GROUP_ROUTES] = "routes",
	[GROUP_SCHEDULER] = "scheduler",
	[GROUP_REST] = "rest",
	[GROUP_BACKGROUND] = "background",
};

/* A name that ends in an asterisk stands for all names that begin so. */
static const char *const background[] = {
	"tick_*", "hrtimer_interrupt", "rebalance_domains", "run_rebalance_domains",
	"sched_balance_*", "_nohz_idle_balance", "nohz_*", "newidle_balance", "load_balance",
	"rcu_gp_kthread", "rcu_sched_clock_irq", "note_gp_changes", "rcu_report_*", "kthread",
	"do_idle", "cpu_startup_entry", "update_process_times",
	/* The tick has a task of each program do this from time to time. */
	"task_mm_cid_work",
	/* These threads move whole pages of a program, at most a few times in a repetition. */
	"khugepaged*", "hpage_collapse_*", "collapse_huge_page", "collapse_pte_mapped_thp",
	"kcompactd*", "kswapd*", NULL,
};

static const char *const scheduler[] = {
	"try_to_wake_up", "__schedule", "schedule*", "default_wake_function", "ttwu_*",
	"sched_ttwu_pending", NULL,
};

/* The groups are tried in this order; the function nearest to the access decides. */
static const struct {
	enum group group;
	const char *names[24];
} parts[] = {
	{ GROUP_BIND, { "inet_twsk_*", "__inet_twsk_*", "__inet_inherit_port", "inet_put_port",
			"inet_bind*", "__inet_put_port", "tcp_time_wait", "tw_timer_handler",
			"tcp_timewait_state_process", "inet_csk_get_port" } },
	{ GROUP_EHASH, { "__inet_lookup_established", "inet_ehash_*", "__inet_hash*",
			 "__inet6_lookup_established", "inet_unhash" } },
	{ GROUP_EPOLL, { "ep_*", "epi_*", "__ep_*", "do_epoll_*", "eventpoll_*" } },
	{ GROUP_LISTENER, { "inet_csk_accept", "inet_csk_reqsk_*", "inet_csk_complete_*",
			    "inet_reqsk_alloc", "reqsk_*", "tcp_conn_request", "inet_lhash2_*",
			    "__inet_lookup_listener", "tcp_get_cookie_sock", "tcp_check_req",
			    "reuseport_*", "fsocket_listen*", "inet_csk_listen_*" } },
	{ GROUP_ROUTES, { "dst_*", "ip_route_*", "fib_*", "rt_*", "inet_sk_rx_dst_set",
			  "__ip_queue_xmit", "tcp_update_metrics", "__tcp_get_metrics",
			  "tcp_get_metrics", "tcp_init_metrics", "ip_finish_output2",
			  "neigh_*", "ipv4_dst_*", "__sk_dst_check" } },
	{ GROUP_MEMORY, { "kmem_cache_*", "__kmem_cache_*", "__slab_*", "slab_*", "___slab_*",
			  "kmalloc_*", "__kmalloc*", "kfree*", "__kfree*", "sk_prot_alloc",
			  "__alloc_pages*", "get_page_from_freelist", "free_unref_*", "__free_*",
			  "rmqueue*", "page_frag_*", "__sk_mem_*", "put_cpu_partial",
			  "get_partial*", "__unfreeze_partials", "clear_page*", "build_skb*",
			  "__build_skb*" } },
};

/*
 * The number of callers that are examined: functions farther out were interrupted, or
 * call everything.
 */
#define REACH 5

static bool is(const char *name, const char *pattern)
{
	size_t length = strlen(pattern);

	return pattern[length - 1] == '*' ? !strncmp(name, pattern, length - 1) : !strcmp(name, pattern);
}

static bool any(const char *name, const char *const *patterns)
{
	for (; *patterns; patterns++)
		if (is(name, *patterns))
			return true;
	return false;
}

static bool has(const char *const *chain, size_t n, const char *const *patterns)
{
	for (size_t i = 0; i < n; i++)
		if (any(chain[i], patterns))
			return true;
	return false;
}

enum group group_of(const char *const *chain, size_t n)
{
	if (has(chain, n, background))
		return GROUP_BACKGROUND;
	if (has(chain, n, scheduler))
		return GROUP_SCHEDULER;
	for (size_t i = 0; i < n && i < REACH; i++)
		for (size_t part = 0; part < sizeof(parts) / sizeof(*parts); part++)
			if (any(chain[i], parts[part].names))
				return parts[part].group;
	return GROUP_REST;
}
