// SPDX-License-Identifier: GPL-2.0-only
/*
 * The skb pool, receiving side (bit 1 of enable_skb_pool).
 *
 * A packet that redispatch hands to another CPU was allocated on the CPU that
 * received it, and would be freed on the other, from where its memory has to
 * find back. The original gave it a new skb from a pool of the CPU that uses it.
 * So do we: the packet is copied into a page of a page_pool of that CPU, to which
 * the page returns by itself when the skb is freed (skb_mark_for_recycle()), and
 * the original goes back to be freed where it was allocated, with others.
 *
 * Packets that are not handed over have their memory at home already, from the
 * per-CPU caches that NAPI has had since 3.x; the pool leaves them alone. The
 * sending side is sendpool.c.
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

/* Pages that a pool keeps at most. */
#define FSOCKET_PAGES	1024

/* NULL while the pool is off. */
static DEFINE_PER_CPU(struct page_pool *, fsocket_page_pool);

/*
 * The same, for good: what has been copied stays in use for as long as a program
 * leaves it unread, and the kernel warns of a pool that has been destroyed a minute
 * before its last page returns.
 */
static DEFINE_PER_CPU(struct page_pool *, fsocket_kept_pool);

/*
 * Originals that may wait for their CPU: it may receive nothing for long, as where
 * RPS keeps packets from it.
 */
#define FSOCKET_HOMECOMING_MAX	256

/* Originals on their way home to a CPU, and about how many they are. */
struct fsocket_homecoming {
	struct llist_head skbs;
	atomic_t count;
};

static DEFINE_PER_CPU_ALIGNED(struct fsocket_homecoming, fsocket_homecoming);

/* What an skb may point to beside its data, and drivers put there on receipt. */
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
	/* As skb_copy(): the same headroom, since headers are offsets into it. */
	skb_reserve(copy, headroom);
	skb_put(copy, skb->len);
	if (skb_copy_bits(skb, -(int)headroom, copy->head, size)) {
		kfree_skb(copy);
		return NULL;
	}
	skb_copy_header(copy, skb);
	/* Which has been made for packets to send. */
	*skb_hwtstamps(copy) = *skb_hwtstamps((struct sk_buff *)skb);
	/* One of the headers; says where the kernel itself frees it. */
	copy->alloc_cpu = raw_smp_processor_id();
	return copy;
}

/* Frees @skb where it was allocated, soon, if there is no reason not to wait. */
static void fsocket_skbpool_send_home(struct sk_buff *skb)
{
	struct fsocket_homecoming *home;

	/* A sender waits for these: skb_still_in_host_queue(), and its memory. */
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
	/* Before: what comes meanwhile is counted anew. */
	atomic_set(&home->count, 0);
	llist_for_each_entry_safe(skb, next, llist_del_all(&home->skbs), ll_node) {
		skb->next = NULL;
		napi_consume_skb(skb, budget);
	}
}

void fsocket_skbpool_reap(void)
{
	/* Within NAPI: into this CPU's cache of skbs, and in bulk from there. */
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
	/* No packet is being copied there any more. */
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

	/* Pages that are still in use return first, and hold their pool until then. */
	for_each_possible_cpu(cpu)
		page_pool_destroy(per_cpu(fsocket_kept_pool, cpu));
}
