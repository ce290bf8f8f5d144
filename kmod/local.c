// SPDX-License-Identifier: GPL-2.0-only
/*
 * A CPU's local listener: how it is made, put into the group and parked. late.c has how
 * connections leave its accept queue.
 */
#include <linux/security.h>
#include <linux/slab.h>
#include <net/inet_hashtables.h>
#include <net/sock.h>
#include <net/sock_reuseport.h>
#include <net/tcp.h>

#include "bind.h"
#include "inherit.h"
#include "listener.h"
#include "ops.h"
#include "stats.h"
#include "trace.h"

/* Counts one event for the CPU of @local; any CPU may call this. */
static void fsocket_local_count(const struct fsocket_local *local, size_t counter)
{
	static DEFINE_SPINLOCK(lock);

	spin_lock(&lock);
	++*(u64 *)((void *)per_cpu_ptr(local->listener->stats, local->cpu) + counter);
	spin_unlock(&lock);
}

/*
 * Puts @sk into the group of @shared, which is in a group while it listens. The lock
 * keeps it there: reuseport_add_sock() crashes if it leaves meanwhile.
 */
static int fsocket_join_group(struct sock *sk, struct sock *shared)
{
	int ret = -EINVAL;

	lock_sock(shared);
	if (shared->sk_state == TCP_LISTEN)
		ret = reuseport_add_sock(sk, shared, fsocket_bound_to_any(shared));
	release_sock(shared);
	return ret;
}

static int fsocket_local_attach(struct fsocket_local *local)
{
	struct sock *shared = local->listener->sock->sk;
	int ret;

	if (local->attached)
		return 0;
	ret = fsocket_join_group(local->sock->sk, shared);
	if (ret)
		return ret;
	WRITE_ONCE(local->attached, true);
	fsocket_local_count(local, offsetof(struct fsocket_stats, spawn));
	trace_fsocket_spawn(inet_sk(shared)->inet_num, local->cpu);
	return 0;
}

/*
 * Makes the worker of @host serve @local; if @host is NULL, its own worker. Called
 * under the listener's lock.
 */
static void fsocket_local_hand(struct fsocket_local *local, struct fsocket_local *host)
{
	struct fsocket_listener *l = local->listener;
	struct fsocket_local *old = local->host;
	struct socket_wq *wq = host ? &host->wq : &local->wq;

	if (old == host)
		return;
	if (host) {
		set_bit(local->cpu, host->served);
		WRITE_ONCE(host->guests, host->guests + 1);
	}
	WRITE_ONCE(local->host, host);
	WRITE_ONCE(l->guests, l->guests + !!host - !!old);
	rcu_assign_pointer(local->sock->sk->sk_wq, wq);
	if (old) {
		clear_bit(local->cpu, old->served);
		WRITE_ONCE(old->guests, old->guests - 1);
	}
	/*
	 * Connections may wait already, or a softirq may be about to wake the former
	 * wait queue. This starts the timer, too, so it does no harm if a worker looks
	 * too early.
	 */
	smp_mb();
	wake_up_interruptible_poll(&wq->wait, EPOLLIN | EPOLLRDNORM);
}

/*
 * Takes @local out of the group. If it ends, it leaves as a listener that is closed: with
 * net.ipv4.tcp_migrate_req, its handshakes and the connections for which the shared queue
 * has no room go on at another socket of the group then.
 */
static void fsocket_leave_group(const struct fsocket_local *local)
{
	if (local->listener->ended)
		reuseport_stop_listen_sock(local->sock->sk);
	else
		reuseport_detach_sock(local->sock->sk);
}

void fsocket_local_park(struct fsocket_local *local)
{
	if (!local->attached)
		return;
	fsocket_leave_group(local);
	WRITE_ONCE(local->attached, false);
	fsocket_local_count(local, offsetof(struct fsocket_stats, retire));
	trace_fsocket_retire(inet_sk(local->sock->sk)->inet_num, local->cpu);
	fsocket_local_hand(local, NULL);
	/* The timer moves connections that arrive later. */
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
 * Puts the bound, unhashed @sk into TCP_LISTEN. No other task knows @sk, so this can
 * exchange its sk_prot for a moment, for one that leaves out the steps by which
 * inet_csk_listen_start() makes a listener visible.
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

/* Copies everything but the queue from the shared listener to the new @sk. */
static int fsocket_local_inherit(struct fsocket_local *local, struct socket *sock)
{
	struct fsocket_listener *l = local->listener;
	struct sock *shared = l->sock->sk, *sk = sock->sk;
	int ret;

	ret = fsocket_inherit(sk, shared);
	if (ret)
		return ret;
	/* The guard stays bound as the shared listener was bound when it listened. */
	fsocket_inherit_address(sk, l->guard->sk);
	security_sk_clone(shared, sk);
	/* bind() of other programs does not see this: the private bucket is in no chain. */
	sk->sk_reuseport = 1;
	/* /proc/net/tcp shows that user for requests, and inet_diag both if a port is asked for. */
	SOCK_INODE(sock)->i_uid = sock_i_uid(shared);
	SOCK_INODE(sock)->i_ino = l->ino;
	sk->sk_incoming_cpu = local->cpu;
	sock_set_flag(sk, SOCK_RCU_FREE);
	rcu_assign_pointer(sk->sk_wq, &local->wq);
	/* Owner matches of netfilter look for the user of a SYN-ACK here. */
	write_lock_bh(&sk->sk_callback_lock);
	sock->file = l->sock->file;
	write_unlock_bh(&sk->sk_callback_lock);
	return 0;
}

/*
 * Clears the pointer to the file of the shared listener. That file may be closed long
 * before @sock is released, and a request that has not been answered can still lead
 * netfilter to @sock.
 */
static void fsocket_local_forget_file(struct socket *sock)
{
	write_lock_bh(&sock->sk->sk_callback_lock);
	sock->file = NULL;
	write_unlock_bh(&sock->sk->sk_callback_lock);
}

static void fsocket_local_release(struct socket *sock)
{
	fsocket_local_forget_file(sock);
	sock_release(sock);
}

static int fsocket_local_listen(struct fsocket_local *local)
{
	struct fsocket_listener *l = local->listener;
	struct sock *shared = l->sock->sk;
	struct socket *sock;
	int ret;

	/* This is no kernel socket, since its children must hold their network namespace. */
	ret = __sock_create(sock_net(shared), shared->sk_family, SOCK_STREAM,
			    IPPROTO_TCP, &sock, 0);
	if (ret)
		return ret;
	ret = fsocket_local_inherit(local, sock);
	if (ret)
		goto err_release;
	local->bind = fsocket_bind_private(sock->sk, l->guard->sk);
	if (IS_ERR(local->bind)) {
		ret = PTR_ERR(local->bind);
		local->bind = NULL;
		goto err_release;
	}
	ret = fsocket_listen_start(sock->sk);
	if (ret)
		goto err_settle;
	fsocket_inherit_quickack(sock->sk, shared);
	local->cookie = fsocket_inherit_cookie(sock->sk, shared);
	/* accept() and poll() take no lock, so publish it complete. */
	smp_store_release(&local->sock, sock);
	return 0;

err_settle:
	fsocket_bind_settle(local->bind, sock->sk, l->guard->sk);
	local->bind = NULL;
err_release:
	fsocket_local_release(sock);
	return ret;
}

static int fsocket_guard_get(struct fsocket_listener *l)
{
	struct sock *shared = l->sock->sk;
	struct socket *guard;

	if (l->guard)
		return 0;
	/* The program may have set it since the listener was adopted. */
	l->reuseport = shared->sk_reuseport;
	guard = fsocket_bind_guard(shared, l->reuseport);
	if (IS_ERR(guard))
		return PTR_ERR(guard);
	l->guard = guard;
	/* The guard keeps other sockets off the port now; fsocket_listener_restore() undoes it. */
	lock_sock(shared);
	if (fsocket_listen_is_ours(l->sock)) {
		shared->sk_reuseport = 1;
		l->reuseport_ours = true;
	}
	release_sock(shared);
	return 0;
}

/*
 * Gives @local the socket of a parked place, if there is one. So a listener has at most
 * one socket more than the largest number of workers and covered CPUs that it had at
 * once.
 */
static void fsocket_local_inherit_spare(struct fsocket_local *local)
{
	struct fsocket_listener *l = local->listener;
	struct fsocket_local *spare;
	struct socket *sock;
	int cpu;

	for_each_possible_cpu(cpu) {
		spare = l->locals[cpu];
		if (spare && spare->sock && !spare->claims && !spare->attached)
			break;
	}
	if (cpu >= nr_cpu_ids)
		return;
	sock = spare->sock;
	WRITE_ONCE(spare->sock, NULL);
	local->bind = spare->bind;
	spare->bind = NULL;
	local->cookie = spare->cookie;
	sock->sk->sk_incoming_cpu = local->cpu;
	rcu_assign_pointer(sock->sk->sk_wq, &local->wq);
	/* Pairs with fsocket_local_sock(). */
	smp_store_release(&local->sock, sock);
	/*
	 * This is for connections that moved with the socket, or that are about to wake
	 * the former place.
	 */
	fsocket_local_look_soon(local);
}

int fsocket_local_start(struct fsocket_local *local, struct fsocket_local *host)
{
	int ret;

	if (!local->sock)
		fsocket_local_inherit_spare(local);
	if (!local->sock) {
		ret = fsocket_guard_get(local->listener);
		if (!ret)
			ret = fsocket_local_listen(local);
		if (ret)
			return ret;
	}
	/* This comes before connections arrive, so that each of them wakes a worker. */
	fsocket_local_hand(local, host);
	ret = fsocket_local_attach(local);
	if (ret)
		fsocket_local_hand(local, NULL);
	return ret;
}

void fsocket_local_unbind(struct fsocket_local *local)
{
	struct sock *sk;

	if (!local->bind)
		return;
	sk = local->sock->sk;
	/* One that was parked before has to join the group to leave it like the others. */
	if (READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_migrate_req) &&
	    !rcu_access_pointer(sk->sk_reuseport_cb) &&
	    !fsocket_join_group(sk, local->listener->sock->sk))
		fsocket_leave_group(local);
	lock_sock(sk);
	atomic64_set(&sk->sk_cookie, local->cookie);
	tcp_set_state(sk, TCP_CLOSE);
	inet_csk_listen_stop(sk);
	release_sock(sk);
	fsocket_bind_settle(local->bind, sk, local->listener->guard->sk);
	local->bind = NULL;
	fsocket_local_forget_file(local->sock);
}

struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu)
{
	struct fsocket_local *local = l->locals[cpu];

	if (local)
		return local;
	local = kzalloc(struct_size(local, served, BITS_TO_LONGS(nr_cpu_ids)),
			GFP_KERNEL_ACCOUNT);
	if (!local)
		return ERR_PTR(-ENOMEM);
	local->listener = l;
	local->cpu = cpu;
	__set_bit(cpu, local->served);
	init_waitqueue_head(&local->wq.wait);
	fsocket_local_watch(local);
	/* accept() and poll() take no lock, so publish it complete. */
	smp_store_release(&l->locals[cpu], local);
	return local;
}

void fsocket_local_quiet(struct fsocket_local *local)
{
	/* Only fsocket_arrived() starts the timer, and it runs no longer. */
	remove_wait_queue(&local->wq.wait, &local->arrival);
	del_timer_sync(&local->timer);
	/*
	 * Tasks in poll() look again. Entries that stay registered, of an epoll
	 * instance or of a poll() that sleeps on, keep @local: fsocket_local_polled().
	 */
	wake_up_interruptible_poll(&local->wq.wait, EPOLLIN | EPOLLRDNORM);
}

bool fsocket_local_polled(struct fsocket_local *local)
{
	/* No task can register any more. */
	return waitqueue_active(&local->wq.wait);
}

void fsocket_local_free(struct fsocket_local *local)
{
	if (local->sock)
		fsocket_local_release(local->sock);
	/*
	 * A softirq that found sk_wq before sock_release() may still use it, and so may
	 * a task that polled.
	 */
	kfree_rcu(local, wq.rcu);
}
