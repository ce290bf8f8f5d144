// SPDX-License-Identifier: GPL-2.0-only
/*
 * The skb pool, sending side (bit 2 of enable_skb_pool).
 *
 * Each CPU keeps some skbs of the kind that TCP sends, made in advance by a work
 * item, so that a program that sends finds one ready. TCP has one place where it
 * allocates them, tcp_stream_alloc_skb(), and all that it allocates there on the
 * way of sent data is of one size: the headers' room; the data goes into page
 * fragments. Modules cannot be called there, so ftrace, as for a live patch, sends
 * its callers to our version, which goes back to the kernel's where the pool does
 * not serve.
 *
 * The original took freed skbs back, which needs a place in the path of every skb
 * that is freed. We leave that to SLUB, whose per-CPU lists are such a pool too.
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

/* The skbs of a full pool, and those of one that is worth a work item. */
#define FSOCKET_SEND_FULL	64
#define FSOCKET_SEND_LOW	32

struct fsocket_send_pool {
	struct sk_buff_head skbs;
	struct work_struct fill;
};

static DEFINE_PER_CPU(struct fsocket_send_pool, fsocket_send_pools);

/* Those who are in our version; it may sleep. */
DEFINE_STATIC_SRCU(fsocket_send_users);

/* The kernel's version. */
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

/* As the kernel's from where the skb is allocated. */
static struct sk_buff *fsocket_send_alloc(struct sock *sk)
{
	struct sk_buff *skb = fsocket_send_take();

	if (!skb) {
		fsocket_count(sock_net(sk), skb_pool_empty);
		return NULL;
	}
	skb->truesize = SKB_TRUESIZE(skb_end_offset(skb));
	/* Where memory is scarce, the kernel knows whom to force it for. */
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

/* The kernel's version begins. Called by ours, it is let go on. */
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
	 * Anew each time, as ftrace_free_filter() leaves pointers to what it frees.
	 * Permanent: while it is registered, nobody can switch ftrace off.
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

	/* Waits for those whom ftrace has sent, but who have not arrived. */
	unregister_ftrace_function(&fsocket_send_ops);
	ftrace_free_filter(&fsocket_send_ops);
	/* For those who have; */
	synchronize_srcu(&fsocket_send_users);
	/* and for those who said so, and are about to return. */
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
