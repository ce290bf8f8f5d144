// SPDX-License-Identifier: GPL-2.0-only
/*
 * The skb pool, receiving side (bit 1 of enable_skb_pool).
 *
 * An skb that redispatch hands to another CPU was allocated on the CPU that received it
 * and would be freed on the other, so that SLUB has to return its memory to the first.
 * The original gave such a packet a new skb from a pool of the CPU that uses it, and so
 * does this file. It copies the packet into a page of that CPU's page_pool; the page
 * returns to the pool by itself when the skb is freed (skb_mark_for_recycle()). The
 * original skb goes back to the CPU that allocated it and is freed there, with others.
 *
 * Packets that are not handed over have their memory on the right CPU already, from the
 * per-CPU caches that NAPI has had since 3.x; the pool does not touch them. sendpool.c has
 * the sending side.
 */
#include <linux/atomic.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <net/net_namespace.h>

#include "compat.h"
#include "skbpool.h"
#include "stats.h"

/* Memory for each packet; what an skb needs beside its data is part of it. */
#define FSOCKET_FRAG	2048
#define FSOCKET_ROOM	SKB_WITH_OVERHEAD(FSOCKET_FRAG)

/* The largest number of pages that a pool keeps. */
#define FSOCKET_PAGES	1024

/* NULL while the pool is off. */
static DEFINE_PER_CPU(struct page_pool *, fsocket_page_pool);

/*
 * The pool, also while the feature is off. Copied packets stay in use for as long as a
 * program leaves them unread, and the kernel warns if a page of a destroyed pool has not
 * returned within a minute.
 */
static DEFINE_PER_CPU(struct page_pool *, fsocket_kept_pool);

/*
 * The number of original skbs that may wait for their CPU. A CPU may receive nothing for
 * a long time, for instance if RPS keeps packets from it.
 */
#define FSOCKET_HOMECOMING_MAX	256

/* The original skbs to be freed on one CPU, and about how many there are. */
struct fsocket_homecoming {
	struct llist_head skbs;
	atomic_t count;
};

static DEFINE_PER_CPU_ALIGNED(struct fsocket_homecoming, fsocket_homecoming);

/*
 * Returns whether the pool can copy @skb: a driver may have given it a fragment list or a
 * time stamp.
 */
static bool fsocket_skbpool_takes(const struct sk_buff *skb, unsigned int size)
{
	if (size > FSOCKET_ROOM || skb_has_frag_list(skb))
		return false;
#ifdef FSOCKET_HWTSTAMP_IN_DRIVER
	/* The time stamp is still in the driver's memory. */
	if (skb_shinfo(skb)->tx_flags & SKBTX_HW_TSTAMP_NETDEV)
		return false;
#endif
	return true;
}

static struct sk_buff *fsocket_skbpool_copy(struct page_pool *pool,
					    const struct sk_buff *skb)
{
	unsigned int headroom = skb_headroom(skb), size = headroom + skb->len;
	unsigned int offset;
	struct sk_buff *copy;
	struct page *page;

	if (!fsocket_skbpool_takes(skb, size))
		return NULL;
	page = page_pool_alloc_frag(pool, &offset, FSOCKET_FRAG,
				    GFP_ATOMIC | __GFP_NOWARN);
	if (!page)
		return NULL;
	copy = napi_build_skb(page_address(page) + offset, FSOCKET_FRAG);
	if (!copy) {
		page_pool_put_full_page(pool, page, false);
		return NULL;
	}
	skb_mark_for_recycle(copy);
	/*
	 * Like skb_copy(), this keeps the headroom, since the headers are stored as
	 * offsets into it.
	 */
	skb_reserve(copy, headroom);
	skb_put(copy, skb->len);
	if (skb_copy_bits(skb, -(int)headroom, copy->head, size)) {
		kfree_skb(copy);
		return NULL;
	}
	skb_copy_header(copy, skb);
	/* skb_copy_header() is made for packets to send and leaves out the time stamp. */
	*skb_hwtstamps(copy) = *skb_hwtstamps((struct sk_buff *)skb);
	/*
	 * skb_copy_header() also copies alloc_cpu, by which the kernel chooses the CPU
	 * that frees the skb.
	 */
	copy->alloc_cpu = raw_smp_processor_id();
	return copy;
}

/* Queues @skb to be freed on the CPU that allocated it, unless it has to be freed at once. */
static void fsocket_skbpool_send_home(struct sk_buff *skb)
{
	struct fsocket_homecoming *home;

	/* A sender waits until these are freed: skb_still_in_host_queue(), or for memory. */
	if (skb_cloned(skb) || skb->destructor || skb->alloc_cpu >= nr_cpu_ids ||
	    !cpu_online(skb->alloc_cpu))
		goto here;
	home = per_cpu_ptr(&fsocket_homecoming, skb->alloc_cpu);
	if (atomic_read(&home->count) >= FSOCKET_HOMECOMING_MAX)
		goto here;
	atomic_inc(&home->count);
	llist_add(&skb->ll_node, &home->skbs);
	return;
here:
	consume_skb(skb);
}

struct sk_buff *fsocket_skbpool_exchange(struct net *net, int cpu,
					 struct sk_buff *skb)
{
	struct page_pool *pool = READ_ONCE(per_cpu(fsocket_page_pool, cpu));
	struct sk_buff *copy;

	if (!pool)
		return skb;
	copy = fsocket_skbpool_copy(pool, skb);
	if (!copy) {
		fsocket_count(net, skb_pool_pass);
		return skb;
	}
	fsocket_count(net, skb_pool_copy);
	fsocket_skbpool_send_home(skb);
	return copy;
}

static void fsocket_skbpool_free(struct fsocket_homecoming *home, int budget)
{
	struct sk_buff *skb, *next;

	if (llist_empty(&home->skbs))
		return;
	/* Reset the counter first, so that skbs which are added meanwhile are counted anew. */
	atomic_set(&home->count, 0);
	llist_for_each_entry_safe(skb, next, llist_del_all(&home->skbs), ll_node) {
		skb->next = NULL;
		napi_consume_skb(skb, budget);
	}
}

void fsocket_skbpool_reap(void)
{
	/* NAPI frees them in bulk through this CPU's cache of skbs. */
	fsocket_skbpool_free(this_cpu_ptr(&fsocket_homecoming), 1);
}

void fsocket_skbpool_reap_all(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		fsocket_skbpool_free(per_cpu_ptr(&fsocket_homecoming, cpu), 0);
}

static void fsocket_skbpool_stop(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu(fsocket_page_pool, cpu), NULL);
	/* Wait until no CPU copies a packet into its pool any more. */
	synchronize_net();
	fsocket_skbpool_reap_all();
}

static int fsocket_skbpool_start(void)
{
	struct page_pool_params params = {
		.flags = FSOCKET_PP_FLAGS,
		.pool_size = FSOCKET_PAGES,
	};
	struct page_pool *pool;
	int cpu;

	for_each_possible_cpu(cpu) {
		pool = per_cpu(fsocket_kept_pool, cpu);
		if (pool)
			continue;
		params.nid = cpu_to_node(cpu);
		pool = page_pool_create(&params);
		if (IS_ERR(pool))
			return PTR_ERR(pool);
		per_cpu(fsocket_kept_pool, cpu) = pool;
	}
	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu(fsocket_page_pool, cpu), per_cpu(fsocket_kept_pool, cpu));
	return 0;
}

int fsocket_skbpool_enable(bool on)
{
	if (on)
		return fsocket_skbpool_start();
	fsocket_skbpool_stop();
	return 0;
}

void fsocket_skbpool_exit(void)
{
	int cpu;

	/* This destroys a pool once the pages that are still in use have returned. */
	for_each_possible_cpu(cpu)
		page_pool_destroy(per_cpu(fsocket_kept_pool, cpu));
}
