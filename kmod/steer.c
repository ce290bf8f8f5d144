// SPDX-License-Identifier: GPL-2.0-only
/*
 * Packet redispatch, which the original called RPS.
 *
 * A netfilter hook at the end of each interface's ingress asks the registered policies
 * which CPU is to handle a TCP packet. If they name another CPU, the hook adds the
 * packet to that CPU's queue. A NAPI instance of that CPU takes it from there and
 * passes it to the stack. The packet does not pass packet taps, tc and netfilter
 * ingress a second time (skb->tc_skip_classify).
 *
 * Packets of one flow stay in order, as with the kernel's RFS: while packets of a flow
 * wait in a queue, later ones go to that queue, whatever policies and parameters say by
 * then. So each queue counts the packets that entered (tail) and those that have been
 * handled (head), and fsocket_flows stores for each flow, by its hash, the queue of its
 * latest packet and the value of tail then.
 *
 * No CPU waits for another: a queue is a list without a lock. A packet is added only
 * within the RCU section in which the queue was chosen, since a CPU that goes offline
 * waits for these sections.
 *
 * A packet that climbs stacked interfaces (VLAN, bond, bridge) passes the hook of each.
 * Once it comes from a queue, it stays on its CPU. Where an interface has RPS or RFS
 * set, these come before the hook, and do not run again.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/delay.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/netfilter_netdev.h>
#include <linux/skbuff.h>
#include <linux/smp.h>
#include <net/dst.h>
#include <net/net_namespace.h>
#include <net/sock.h>

#include "policy.h"
#include "skbpool.h"
#include "stats.h"
#include "steer.h"
#include "trace.h"

/* Packets that may wait for a CPU; the default of net.core.netdev_max_backlog. */
#define FSOCKET_QUEUE_MAX	1000

/* Flows with the same hash modulo this share their order. A power of two. */
#define FSOCKET_FLOWS		65536

/* The time in milliseconds for which stopping a queue waits for flows that never pause. */
#define FSOCKET_DRAIN_MAX	1000

/*
 * Packets mostly come one at a time, so that the sender and the queue's CPU each use all of
 * the structure. When the fields that either writes were on lines of their own, a proxied
 * request with RFD moved 0.7 lines more (in fsocket_ingress() 3.8 instead of 3.0, and 4.1
 * instead of 3.4).
 */
struct fsocket_queue {
	/* Packets that have been added to the queue, the latest one first. */
	struct llist_head input;
	/* How many packets have entered; incremented before a packet is added to @input. */
	atomic_t tail;
	/* @napi is running, or fsocket_queue_kick() is about to schedule it. */
	atomic_t scheduled;
	/* The queue takes packets. */
	bool open;
	/* Policies may choose this CPU, since it is online and is not about to go offline. */
	bool online;
	/* How many packets have been handled; @napi writes it and every CPU reads it. */
	u32 head;
	/* @tail as the task that stops redispatch has last seen it. */
	u32 seen;
	/* Packets taken from @input, the earliest first; only @napi uses it. */
	struct llist_node *process;
	int cpu;
	struct napi_struct napi;
	call_single_data_t csd;
} ____cacheline_aligned_in_smp;

static DEFINE_PER_CPU(struct fsocket_queue, fsocket_queues);

/* The latest packet of a flow: its CPU + 1 and, in the lower bits, its queue's tail. 0: none. */
static u64 *fsocket_flows;

struct fsocket_ingress {
	struct list_head in_all;
	struct nf_hook_ops ops;
};

/* All hooks, under RTNL. */
static LIST_HEAD(fsocket_ingresses);

/* If unset, no policy is asked, and only flows with packets in a queue are kept in order. */
static bool fsocket_steering;

/* Whether the queues refuse all further packets. */
static bool fsocket_closed;

/* Whether the hooks of the interfaces that exist already are being registered. */
static bool fsocket_starting;

/* Whether this CPU is passing a packet of its queue to the stack. */
static DEFINE_PER_CPU(bool, fsocket_delivering);

/* A NAPI instance needs a device. */
static struct net_device fsocket_napi_dev;

static enum cpuhp_state fsocket_steer_cpuhp;

static int fsocket_ask_policies(const struct fastsocket_flow *flow)
{
	int cpu = READ_ONCE(fsocket_steering) ? fsocket_policies_ask(flow) : -1;

	return cpu >= 0 && cpu < nr_cpu_ids && cpu_possible(cpu) &&
	       READ_ONCE(per_cpu(fsocket_queues, cpu).online) ? cpu : -1;
}

/* Returns the CPU in whose queue the flow's latest packet still waits; -1 if none. */
static int fsocket_flow_waits(u64 latest)
{
	int cpu = (int)(latest >> 32) - 1;
	u32 head;

	if (cpu < 0)
		return -1;
	/* Pairs with fsocket_queue_poll(): its smp_store_release() follows the handling. */
	head = smp_load_acquire(&per_cpu(fsocket_queues, cpu).head);
	return (s32)(head - (u32)latest) < 0 ? cpu : -1;
}

enum fsocket_enqueued { FSOCKET_QUEUED, FSOCKET_FULL, FSOCKET_OFFLINE };

static enum fsocket_enqueued fsocket_enqueue(int cpu, struct sk_buff *skb,
					     u64 *latest)
{
	struct fsocket_queue *q = &per_cpu(fsocket_queues, cpu);

	if (!READ_ONCE(q->open))
		return FSOCKET_OFFLINE;
	/* The queue is not full if head has passed the tail just read: a negative difference. */
	if ((s32)((u32)atomic_read(&q->tail) - READ_ONCE(q->head)) >=
	    FSOCKET_QUEUE_MAX)
		return FSOCKET_FULL;
	atomic_inc(&q->tail);
	/* A full barrier, which pairs with the one in fsocket_queue_poll(). */
	llist_add(&skb->ll_node, &q->input);
	/* All packets before this one have been counted in tail by now. */
	WRITE_ONCE(*latest, (u64)(cpu + 1) << 32 | (u32)atomic_read(&q->tail));
	if (!atomic_read(&q->scheduled) && !atomic_xchg(&q->scheduled, 1))
		smp_call_function_single_async(cpu, &q->csd);
	return FSOCKET_QUEUED;
}

static unsigned int fsocket_ingress(void *priv, struct sk_buff *skb,
				    const struct nf_hook_state *state)
{
	int here = smp_processor_id(), target, waits;
	struct net *net = state->net;
	struct fastsocket_flow flow;
	u64 *latest;

	/* The poll function receives nothing else, so this packet comes from the queue. */
	if (this_cpu_read(fsocket_delivering))
		return NF_ACCEPT;
	fsocket_skbpool_reap();
	/*
	 * A socket from tc's bpf_sk_assign() may be valid in this RCU section
	 * only, unlike that of the sender, which veth leaves; a generic XDP
	 * program would see the packet twice.
	 */
	if (skb_sk_is_prefetched(skb) || skb_shared(skb) ||
	    rcu_access_pointer(skb->dev->xdp_prog) || !fsocket_flow_read(skb, net, &flow))
		return NF_ACCEPT;

	latest = &fsocket_flows[flow.hash & (FSOCKET_FLOWS - 1)];
	target = fsocket_ask_policies(&flow);
	waits = fsocket_flow_waits(READ_ONCE(*latest));
	if (waits < 0 && target < 0) {
		fsocket_count(net, steer_pass);
		return NF_ACCEPT;
	}
	if (waits < 0 && target == here) {
		fsocket_count(net, steer_local);
		return NF_ACCEPT;
	}

	if (READ_ONCE(fsocket_closed)) {
		fsocket_count(net, steer_drop);
		return NF_DROP;
	}
	if (waits >= 0 && waits != target) {
		fsocket_count(net, steer_kept);
		target = waits;
	} else {
		fsocket_count(net, steer_remote);
	}
	trace_fsocket_steer(flow.sport, flow.dport, target);
	skb_dst_force(skb);
	skb_reset_redirect(skb);
	skb->tc_skip_classify = 1;
	switch (fsocket_enqueue(target, skb, latest)) {
	case FSOCKET_QUEUED:
		return NF_STOLEN;
	case FSOCKET_FULL:
		fsocket_count(net, steer_drop);
		return NF_DROP;
	case FSOCKET_OFFLINE:
		/*
		 * fsocket_cpu_offline() waits for what is in the queue: this packet must
		 * not overtake it.
		 */
		if (fsocket_flow_waits(READ_ONCE(*latest)) < 0)
			break;
		fsocket_count(net, steer_drop);
		return NF_DROP;
	}
	skb->tc_skip_classify = 0;
	return NF_ACCEPT;
}

static int fsocket_queue_poll(struct napi_struct *napi, int budget)
{
	struct fsocket_queue *q = container_of(napi, struct fsocket_queue, napi);
	struct sk_buff *skb;
	int work = 0;

	fsocket_skbpool_reap();
	while (work < budget) {
		if (!q->process)
			q->process = llist_reverse_order(llist_del_all(&q->input));
		if (!q->process) {
			atomic_set(&q->scheduled, 0);
			/* Pairs with llist_add(): else the sender of a packet kicks the queue. */
			smp_mb();
			if (!llist_empty(&q->input) && !atomic_xchg(&q->scheduled, 1))
				continue;
			napi_complete_done(napi, work);
			break;
		}
		skb = llist_entry(q->process, struct sk_buff, ll_node);
		q->process = q->process->next;
		skb->next = NULL;
		skb = fsocket_skbpool_exchange(dev_net(skb->dev), q->cpu, skb);
		this_cpu_write(fsocket_delivering, true);
		/* This function comes after RPS, which might move the packet to another CPU. */
		netif_receive_skb_core(skb);
		this_cpu_write(fsocket_delivering, false);
		/* Pairs with smp_load_acquire() in fsocket_flow_waits(). */
		smp_store_release(&q->head, q->head + 1);
		work++;
	}
	return work;
}

/* Schedules NAPI; called on the queue's CPU in a hard interrupt. */
static void fsocket_queue_kick(void *queue)
{
	struct fsocket_queue *q = queue;

	napi_schedule_irqoff(&q->napi);
}

static int fsocket_cpu_online(unsigned int cpu)
{
	struct fsocket_queue *q = &per_cpu(fsocket_queues, cpu);

	WRITE_ONCE(q->open, true);
	WRITE_ONCE(q->online, true);
	return 0;
}

/*
 * Runs on the CPU that goes offline, which still handles interrupts. Policies no longer
 * choose this CPU. Once its queue has been empty across a grace period, nobody can add to
 * it. Flows that never pause lose packets after FSOCKET_DRAIN_MAX, until it is empty.
 */
static int fsocket_cpu_offline(unsigned int cpu)
{
	struct fsocket_queue *q = &per_cpu(fsocket_queues, cpu);
	u32 tail;
	int ms;

	WRITE_ONCE(q->online, false);
	for (ms = 0;; ms++) {
		tail = atomic_read(&q->tail);
		if (READ_ONCE(q->head) == tail) {
			synchronize_rcu();
			if ((u32)atomic_read(&q->tail) == tail)
				break;
		}
		if (ms >= FSOCKET_DRAIN_MAX)
			WRITE_ONCE(q->open, false);
		usleep_range(500, 1000);
	}
	WRITE_ONCE(q->open, false);
	return 0;
}

/* Returns when all packets that are in the queues now have been handled. */
static void fsocket_queues_flush(void)
{
	struct fsocket_queue *q;
	u32 tail;
	int cpu;

	for_each_possible_cpu(cpu) {
		q = &per_cpu(fsocket_queues, cpu);
		tail = atomic_read(&q->tail);
		while ((s32)(READ_ONCE(q->head) - tail) < 0)
			usleep_range(100, 1000);
	}
	/* The original skbs of copied packets refer to the interface, too. */
	fsocket_skbpool_reap_all();
}

/*
 * Returns whether all queues are empty and stay so: no policy is asked any more, and each
 * CPU that saw a packet of its flow in a queue has left its RCU section without adding to
 * the queue.
 */
static bool fsocket_queues_left(void)
{
	struct fsocket_queue *q;
	int cpu;

	for_each_possible_cpu(cpu) {
		q = &per_cpu(fsocket_queues, cpu);
		q->seen = atomic_read(&q->tail);
		if (READ_ONCE(q->head) != q->seen)
			return false;
	}
	synchronize_net();
	for_each_possible_cpu(cpu) {
		q = &per_cpu(fsocket_queues, cpu);
		if ((u32)atomic_read(&q->tail) != q->seen)
			return false;
	}
	return true;
}

static struct fsocket_ingress *fsocket_ingress_of(const struct net_device *dev)
{
	struct fsocket_ingress *ingress;

	list_for_each_entry(ingress, &fsocket_ingresses, in_all) {
		if (ingress->ops.dev == dev)
			return ingress;
	}
	return NULL;
}

static int fsocket_ingress_add(struct net_device *dev)
{
	struct fsocket_ingress *ingress;
	int ret;

	if (fsocket_ingress_of(dev))
		return 0;
	ingress = kzalloc(sizeof(*ingress), GFP_KERNEL);
	if (!ingress)
		return -ENOMEM;
	ingress->ops.hook = fsocket_ingress;
	ingress->ops.pf = NFPROTO_NETDEV;
	ingress->ops.hooknum = NF_NETDEV_INGRESS;
	/* The hook comes after all others and sees the packets that they accept. */
	ingress->ops.priority = INT_MAX;
	ingress->ops.dev = dev;
	ret = nf_register_net_hook(dev_net(dev), &ingress->ops);
	if (ret) {
		kfree(ingress);
		return ret;
	}
	list_add(&ingress->in_all, &fsocket_ingresses);
	return 0;
}

static void fsocket_ingress_del(struct net_device *dev)
{
	struct fsocket_ingress *ingress = fsocket_ingress_of(dev);

	if (!ingress)
		return;
	list_del(&ingress->in_all);
	nf_unregister_net_hook(dev_net(dev), &ingress->ops);
	synchronize_net();
	kfree(ingress);
	/* No packet in a queue may refer to the interface once it is gone. */
	fsocket_queues_flush();
}

/* The notifier also reports existing interfaces when it is registered and unregistered. */
static int fsocket_netdev_event(struct notifier_block *nb, unsigned long event,
				void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);
	int ret;

	switch (event) {
	case NETDEV_REGISTER:
		ret = fsocket_ingress_add(dev);
		if (!ret)
			break;
		if (fsocket_starting)
			return notifier_from_errno(ret);
		/* A failure must not keep the interface from being registered. */
		pr_info_ratelimited("%s: its packets are not redispatched: error %d\n",
				    netdev_name(dev), ret);
		break;
	case NETDEV_UNREGISTER:
		fsocket_ingress_del(dev);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block fsocket_netdev_notifier = {
	.notifier_call = fsocket_netdev_event,
};

static int fsocket_steer_start(void)
{
	int ret;

	fsocket_flows = kvcalloc(FSOCKET_FLOWS, sizeof(*fsocket_flows), GFP_KERNEL);
	if (!fsocket_flows)
		return -ENOMEM;
	WRITE_ONCE(fsocket_steering, true);
	fsocket_starting = true;
	ret = register_netdevice_notifier(&fsocket_netdev_notifier);
	fsocket_starting = false;
	if (ret) {
		WRITE_ONCE(fsocket_steering, false);
		fsocket_queues_flush();
		kvfree(fsocket_flows);
	}
	return ret;
}

static void fsocket_steer_stop(void)
{
	int ms;

	WRITE_ONCE(fsocket_steering, false);
	for (ms = 0; !fsocket_queues_left(); ms++) {
		/* Dropped packets cannot overtake those that wait, and the wait is soon over. */
		if (ms >= FSOCKET_DRAIN_MAX)
			WRITE_ONCE(fsocket_closed, true);
		usleep_range(1000, 1500);
	}
	unregister_netdevice_notifier(&fsocket_netdev_notifier);
	WRITE_ONCE(fsocket_closed, false);
	kvfree(fsocket_flows);
}

int fsocket_steer_enable(bool on)
{
	if (on)
		return fsocket_steer_start();
	fsocket_steer_stop();
	return 0;
}

int fsocket_steer_init(void)
{
	int cpu, ret;

	init_dummy_netdev(&fsocket_napi_dev);
	for_each_possible_cpu(cpu) {
		struct fsocket_queue *q = &per_cpu(fsocket_queues, cpu);

		q->cpu = cpu;
		init_llist_head(&q->input);
		INIT_CSD(&q->csd, fsocket_queue_kick, q);
		netif_napi_add_weight(&fsocket_napi_dev, &q->napi,
				      fsocket_queue_poll, NAPI_POLL_WEIGHT);
		napi_enable(&q->napi);
	}
	ret = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "net/fastsocket:queue",
				fsocket_cpu_online, fsocket_cpu_offline);
	if (ret < 0) {
		fsocket_steer_exit();
		return ret;
	}
	fsocket_steer_cpuhp = ret;
	return 0;
}

/*
 * Every CPU runs its NET_RX softirq once, although nothing is queued: there it frees the
 * skbs that other CPUs have left to it (skb_attempt_defer_free()). A CPU that receives
 * nothing would keep them, and with them pages of the skb pool.
 */
static void fsocket_queues_run(void)
{
	struct fsocket_queue *q;
	int cpu;

	cpus_read_lock();
	for_each_online_cpu(cpu) {
		q = &per_cpu(fsocket_queues, cpu);
		while (atomic_xchg(&q->scheduled, 1))
			usleep_range(100, 1000);
		/* On this CPU, a raised softirq runs when bottom halves are enabled. */
		local_bh_disable();
		smp_call_function_single_async(cpu, &q->csd);
		local_bh_enable();
	}
	for_each_online_cpu(cpu) {
		q = &per_cpu(fsocket_queues, cpu);
		while (atomic_read(&q->scheduled))
			usleep_range(100, 1000);
	}
	cpus_read_unlock();
}

/* Steering is off, so the queues are empty. */
void fsocket_steer_exit(void)
{
	int cpu;

	fsocket_queues_run();
	if (fsocket_steer_cpuhp)
		cpuhp_remove_state(fsocket_steer_cpuhp);
	for_each_possible_cpu(cpu) {
		struct fsocket_queue *q = &per_cpu(fsocket_queues, cpu);

		napi_disable(&q->napi);
		netif_napi_del(&q->napi);
	}
	synchronize_net();
	fsocket_skbpool_exit();
}
