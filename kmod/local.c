// SPDX-License-Identifier: GPL-2.0-only
/*
 * A CPU's local listener: made, put into the group, parked; and how connections
 * leave its accept queue for the shared one.
 */
#include <linux/pid.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <net/inet_hashtables.h>
#include <net/sock.h>
#include <net/sock_reuseport.h>
#include <net/tcp.h>

#include "inherit.h"
#include "listener.h"
#include "stats.h"
#include "trace.h"

/* How long a connection waits where nobody waits for it, in jiffies. */
#define FSOCKET_UNWATCHED	(HZ / 2)

/*
 * Moves what is queued at a parked listener to the shared one; compare
 * inet_csk_listen_stop(), which has the same children to care for.
 */
static void fsocket_local_move(struct fsocket_local *local)
{
	struct fsocket_listener *l = local->listener;
	struct sock *from = local->sock->sk, *to = l->sock->sk;
	struct request_sock_queue *queue = &inet_csk(from)->icsk_accept_queue;
	struct request_sock *req;
	bool any = false;

	while ((req = reqsk_queue_remove(queue, from)) != NULL) {
		struct sock *child = req->sk;

		local_bh_disable();
		bh_lock_sock(child);
		sock_hold(child);
		if (inet_csk_reqsk_queue_add(to, req, child)) {
			this_cpu_inc(l->stats->moved);
			any = true;
		} else {
			/* The shared one listens no more: child is forgotten. */
			reqsk_put(req);
		}
		bh_unlock_sock(child);
		local_bh_enable();
		sock_put(child);
		cond_resched();
	}
	if (any)
		to->sk_data_ready(to);
}

static bool fsocket_local_watched(struct fsocket_local *local)
{
	/* By more than local->arrival. */
	return !list_is_singular(&local->wq.wait.head);
}

void fsocket_move_work(struct work_struct *work)
{
	struct fsocket_listener *l =
		container_of(work, struct fsocket_listener, move_work.work);
	struct fsocket_local *local;
	int cpu;

	mutex_lock(&fsocket_mutex);
	for_each_possible_cpu(cpu) {
		local = l->locals[cpu];
		if (local && !(local->attached && fsocket_local_watched(local)))
			fsocket_local_move(local);
	}
	mutex_unlock(&fsocket_mutex);
}

/* A connection has arrived at a local listener; in softirq. */
static int fsocket_arrived(wait_queue_entry_t *entry, unsigned int mode,
			   int sync, void *key)
{
	struct fsocket_local *local =
		container_of(entry, struct fsocket_local, arrival);
	struct fsocket_listener *l = local->listener;

	if (!READ_ONCE(local->attached))
		mod_delayed_work(system_wq, &l->move_work, 0);
	else if (!fsocket_local_watched(local))
		schedule_delayed_work(&l->move_work, FSOCKET_UNWATCHED);
	return 0;
}

static bool fsocket_bound_to_any(const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6)
		return ipv6_addr_any(&sk->sk_v6_rcv_saddr);
#endif
	return !sk->sk_rcv_saddr;
}

/* From now on SYNs handled by its CPU come to @local. */
static int fsocket_local_attach(struct fsocket_local *local)
{
	struct sock *shared = local->listener->sock->sk;
	int ret;

	if (local->attached)
		return 0;
	ret = reuseport_add_sock(local->sock->sk, shared,
				 fsocket_bound_to_any(shared));
	if (ret)
		return ret;
	WRITE_ONCE(local->attached, true);
	per_cpu_ptr(local->listener->stats, local->cpu)->spawn++;
	trace_fsocket_spawn(inet_sk(shared)->inet_num, local->cpu);
	return 0;
}

void fsocket_local_park(struct fsocket_local *local)
{
	if (!local->attached)
		return;
	reuseport_detach_sock(local->sock->sk);
	WRITE_ONCE(local->attached, false);
	per_cpu_ptr(local->listener->stats, local->cpu)->retire++;
	trace_fsocket_retire(inet_sk(local->sock->sk)->inet_num, local->cpu);
	/* Pairs with the barrier in skwq_has_sleeper(). */
	smp_mb();
	fsocket_local_move(local);
}

static int fsocket_no_get_port(struct sock *sk, unsigned short num)
{
	return 0;
}

static int fsocket_no_hash(struct sock *sk)
{
	return 0;
}

/*
 * Puts the bound, unhashed @sk into TCP_LISTEN. Nobody else knows @sk, so its
 * sk_prot can be another one for a moment, which leaves out what
 * inet_csk_listen_start() does to make a listener visible.
 */
static int fsocket_listen_start(struct sock *sk)
{
	struct proto *orig = sk->sk_prot, *quiet;
	int ret;

	quiet = kmemdup(orig, sizeof(*orig), GFP_KERNEL);
	if (!quiet)
		return -ENOMEM;
	quiet->get_port = fsocket_no_get_port;
	quiet->hash = fsocket_no_hash;

	lock_sock(sk);
	sk->sk_prot = quiet;
	ret = inet_csk_listen_start(sk);
	sk->sk_prot = orig;
	release_sock(sk);
	kfree(quiet);
	return ret;
}

static struct fsocket_local *fsocket_local_create(struct fsocket_listener *l,
						  int cpu)
{
	struct sock *shared = l->sock->sk, *sk;
	struct fsocket_local *local;
	int ret;

	local = kzalloc(sizeof(*local), GFP_KERNEL_ACCOUNT);
	if (!local)
		return ERR_PTR(-ENOMEM);
	local->listener = l;
	local->cpu = cpu;
	init_waitqueue_head(&local->wq.wait);
	init_waitqueue_func_entry(&local->arrival, fsocket_arrived);
	add_wait_queue(&local->wq.wait, &local->arrival);

	/* Not a kernel socket: its children have to hold their namespace. */
	ret = __sock_create(sock_net(shared), shared->sk_family, SOCK_STREAM,
			    IPPROTO_TCP, &local->sock, 0);
	if (ret)
		goto err_free;
	sk = local->sock->sk;
	ret = fsocket_inherit(sk, shared);
	if (ret)
		goto err_release;
	security_sk_clone(shared, sk);
	/*
	 * In the group, without opening the port to SO_REUSEPORT sockets that
	 * could not join before: those must be of the same user
	 * (inet_csk_bind_conflict()).
	 */
	sk->sk_reuseport = 1;
	SOCK_INODE(local->sock)->i_uid =
		l->reuseport ? sock_i_uid(shared) : INVALID_UID;
	sk->sk_incoming_cpu = cpu;
	sock_set_flag(sk, SOCK_RCU_FREE);
	rcu_assign_pointer(sk->sk_wq, &local->wq);

	inet_sk(sk)->inet_num = inet_sk(shared)->inet_num;
	local_bh_disable();
	ret = __inet_inherit_port(shared, sk);
	local_bh_enable();
	if (ret) {
		inet_sk(sk)->inet_num = 0;
		goto err_release;
	}
	ret = fsocket_listen_start(sk);
	if (ret)
		goto err_release;
	return local;

err_release:
	sock_release(local->sock);
err_free:
	kfree(local);
	return ERR_PTR(ret);
}

struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu)
{
	struct sock *shared = l->sock->sk;
	struct fsocket_local *local = l->locals[cpu];
	int ret;

	if (!local) {
		local = fsocket_local_create(l, cpu);
		if (IS_ERR(local))
			return local;
		/* accept() and poll() take no lock: publish it complete. */
		smp_store_release(&l->locals[cpu], local);
	}
	/* Only now: @local keeps other sockets off the port. */
	lock_sock(shared);
	shared->sk_reuseport = 1;
	release_sock(shared);
	ret = fsocket_local_attach(local);
	return ret ? ERR_PTR(ret) : local;
}
