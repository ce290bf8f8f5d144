// SPDX-License-Identifier: GPL-2.0-only
/*
 * The sending side of the skb pool (enable_skb_pool=2 or 3).
 *
 * A work item allocates skbs for TCP in advance and keeps some for each CPU, so that a
 * program that sends finds one ready. TCP allocates its skbs in one function,
 * tcp_stream_alloc_skb(), and those for sent data have one size: they have room for the
 * headers, and the data is in page fragments. The function has no hook for modules, so
 * ftrace redirects its callers to our version, as for a live patch. Our version calls
 * the kernel's if the pool cannot serve.
 *
 * The original also took freed skbs back. That would need a hook in the path of every
 * skb that is freed, so this module leaves it to SLUB, which has per-CPU lists too.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/skbuff.h>
#include <linux/smp.h>
#include <linux/srcu.h>
#include <linux/workqueue.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "compat.h"
#include "resolve.h"
#include "sendpool.h"
#include "stats.h"

#define FSOCKET_ALLOCATOR	"tcp_stream_alloc_skb"

/*
 * The skbs of a full pool, and the number below which the work item is queued. A pool of
 * 64 took whole slabs from SLUB, whose objects, freed one by one, then went to other CPUs
 * by way of the node's list of partial slabs: memset() of a new skb moved 7 lines for each
 * connection, and moves 1 with 16.
 */
#define FSOCKET_SEND_FULL	16
#define FSOCKET_SEND_LOW	8

struct fsocket_send_pool {
	struct sk_buff_head skbs;
	struct work_struct fill;
};

static DEFINE_PER_CPU(struct fsocket_send_pool, fsocket_send_pools);

/* Read sections: calls of fsocket_stream_alloc_skb(), which may sleep. */
DEFINE_STATIC_SRCU(fsocket_send_users);

/* The kernel's tcp_stream_alloc_skb(). */
FSOCKET_KERNEL_FUNCTION(sendpool, tcp_stream_alloc_skb);

static void fsocket_send_fill(struct work_struct *work)
{
	struct fsocket_send_pool *pool =
		container_of(work, struct fsocket_send_pool, fill);
	struct sk_buff *skb;

	while (skb_queue_len_lockless(&pool->skbs) < FSOCKET_SEND_FULL) {
		skb = alloc_skb_fclone(MAX_TCP_HEADER, GFP_KERNEL | __GFP_NOWARN);
		if (!skb)
			break;
		skb_queue_tail(&pool->skbs, skb);
	}
}

static struct sk_buff *fsocket_send_take(void)
{
	int cpu = raw_smp_processor_id();
	struct fsocket_send_pool *pool = per_cpu_ptr(&fsocket_send_pools, cpu);
	struct sk_buff *skb = skb_dequeue(&pool->skbs);

	if (skb_queue_len_lockless(&pool->skbs) < FSOCKET_SEND_LOW &&
	    !work_pending(&pool->fill))
		queue_work_on(cpu, system_wq, &pool->fill);
	return skb;
}

/*
 * Does what tcp_stream_alloc_skb() does with a new skb. Returns NULL if the pool cannot
 * serve.
 */
static struct sk_buff *fsocket_send_alloc(struct sock *sk)
{
	struct sk_buff *skb;

	/*
	 * Kernel sockets hold no reference to their network namespace, so its counters may
	 * be freed before they are.
	 */
	if (!sk->sk_net_refcnt)
		return NULL;
	skb = fsocket_send_take();
	if (!skb) {
		fsocket_count(sock_net(sk), skb_pool_empty);
		return NULL;
	}
	skb->truesize = SKB_TRUESIZE(skb_end_offset(skb));
	/* The kernel's version decides for which socket it exceeds the limit of memory. */
	if (!sk_wmem_schedule(sk, skb->truesize)) {
		__kfree_skb(skb);
		return NULL;
	}
	skb_reserve(skb, MAX_TCP_HEADER);
	skb->ip_summed = CHECKSUM_PARTIAL;
	INIT_LIST_HEAD(&skb->tcp_tsorted_anchor);
	fsocket_count(sock_net(sk), skb_pool_send);
	return skb;
}

static struct sk_buff *fsocket_stream_alloc_skb(FSOCKET_STREAM_ALLOC_PARAMS)
{
	int user = srcu_read_lock(&fsocket_send_users);
	struct sk_buff *skb = NULL;

	if (FSOCKET_STREAM_ALLOC_SIZE == 0)
		skb = fsocket_send_alloc(sk);
	if (!skb)
		skb = FSOCKET_STREAM_ALLOC_BY(fsocket_kernel(sendpool, tcp_stream_alloc_skb));
	srcu_read_unlock(&fsocket_send_users, user);
	return skb;
}

/*
 * ftrace callback on entry to tcp_stream_alloc_skb(): redirects to our version, unless this
 * module made the call.
 */
static void notrace fsocket_send_redirect(unsigned long ip, unsigned long parent_ip,
					  struct ftrace_ops *ops,
					  struct ftrace_regs *regs)
{
	if (!within_module(parent_ip, THIS_MODULE))
		ftrace_regs_set_instruction_pointer(regs, (unsigned long)
						    fsocket_stream_alloc_skb);
}

static struct ftrace_ops fsocket_send_ops;

static int fsocket_send_redirect_start(void)
{
	int ret;

	/*
	 * Initialise the structure each time, since ftrace_free_filter() leaves pointers to
	 * freed memory in it. FTRACE_OPS_FL_PERMANENT keeps kernel.ftrace_enabled from being
	 * set to 0 while it is registered.
	 */
	fsocket_send_ops = (struct ftrace_ops){
		.func = fsocket_send_redirect,
		.flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT,
	};
	ret = ftrace_set_filter(&fsocket_send_ops, FSOCKET_ALLOCATOR,
				strlen(FSOCKET_ALLOCATOR), true);
	if (!ret)
		ret = register_ftrace_function(&fsocket_send_ops);
	if (ret)
		ftrace_free_filter(&fsocket_send_ops);
	return ret;
}

static int fsocket_sendpool_start(void)
{
	int cpu, ret;

	for_each_possible_cpu(cpu) {
		struct fsocket_send_pool *pool = per_cpu_ptr(&fsocket_send_pools, cpu);

		skb_queue_head_init(&pool->skbs);
		INIT_WORK(&pool->fill, fsocket_send_fill);
	}
	if (!fsocket_kernel_resolve(sendpool, tcp_stream_alloc_skb)) {
		pr_info("enable_skb_pool=2 needs the kernel's function %s(), which this one does not have\n",
			FSOCKET_ALLOCATOR);
		return -EOPNOTSUPP;
	}
	ret = fsocket_send_redirect_start();
	if (ret) {
		pr_info("enable_skb_pool=2 needs kernel.ftrace_enabled=1, and no other live patch of %s(): error %d\n",
			FSOCKET_ALLOCATOR, ret);
		ret = -EOPNOTSUPP;
	}
	return ret;
}

static void fsocket_sendpool_stop(void)
{
	int cpu;

	/* Waits for tasks that are redirected but have not entered our version yet. */
	unregister_ftrace_function(&fsocket_send_ops);
	ftrace_free_filter(&fsocket_send_ops);
	/* Wait for tasks between srcu_read_lock() and srcu_read_unlock() of our version. */
	synchronize_srcu(&fsocket_send_users);
	/* Wait for tasks in the instructions before and after these two calls. */
	synchronize_rcu_tasks();
	for_each_possible_cpu(cpu) {
		struct fsocket_send_pool *pool = per_cpu_ptr(&fsocket_send_pools, cpu);

		cancel_work_sync(&pool->fill);
		skb_queue_purge(&pool->skbs);
	}
}

int fsocket_sendpool_enable(bool on)
{
	if (on)
		return fsocket_sendpool_start();
	fsocket_sendpool_stop();
	return 0;
}
