// SPDX-License-Identifier: GPL-2.0-only
/*
 * The local listen table.
 *
 * A listening TCP socket of which workers spawn local listeners (the "shared"
 * listener) gets a copy of its proto_ops with accept() and poll() of our own,
 * and one further TCP listener for each CPU with a worker. These share its
 * port, are in no hash table, and form an SO_REUSEPORT group with it; as each
 * has sk_incoming_cpu set, reuseport_select_sock() gives a SYN to the local
 * listener of the CPU that handles it (net/core/sock_reuseport.c). Everything
 * else about a packet, TIME_WAIT, SYN cookies, BPF sk_lookup, namespaces, is
 * left to the stock lookup, and accepted connections are plain TCP sockets.
 * A listener that the program put into a group itself (nginx's "reuseport",
 * HAProxy) brings its local listeners into that one, unless a BPF program
 * already selects there.
 *
 * A worker sees one listening fd: accept() takes from the shared queue first
 * (or connections could starve there), then from the worker's local listener,
 * and poll() waits for both. Threads that are not workers of the listener, but
 * may wait at the epoll instance of one, take from any local listener.
 *
 * A local listener lives until the shared one is closed. While no worker claims
 * it, it is parked: out of the group, and whatever still arrives in its accept
 * queue (the handshake may have begun before) moves to the shared one. So does,
 * after a while, what arrives when nobody waits for it: the worker's epoll
 * instance may have been closed, or its thread have ended.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <net/inet_hashtables.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "inherit.h"
#include "listen.h"
#include "listener.h"
#include "params.h"
#include "stats.h"

/*
 * Serialises everything but accept() and poll(): spawning, retiring, closing.
 * Taken before any socket lock.
 */
DEFINE_MUTEX(fsocket_mutex);
LIST_HEAD(fsocket_listeners);

static enum cpuhp_state fsocket_cpuhp_state;

static int fsocket_listener_release(struct socket *sock);

bool fsocket_listen_is_ours(const struct socket *sock)
{
	return READ_ONCE(sock->ops)->release == fsocket_listener_release;
}

struct fsocket_listener *fsocket_listener_of(const struct socket *sock)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	return (struct fsocket_listener *)container_of(ops, struct fsocket_listener, ops);
}

/*
 * Ends all local listeners. Their queued connections move to the shared one,
 * where closing or disconnecting that deals with them.
 */
static void fsocket_listener_reset(struct fsocket_listener *l)
{
	struct fsocket_claim *claim, *next;
	int cpu;

	list_for_each_entry_safe(claim, next, &l->claims, in_listener)
		fsocket_claim_drop(claim);
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			fsocket_local_park(l->locals[cpu]);
	}
}

static int fsocket_listener_release(struct socket *sock)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	const struct proto_ops *orig = l->orig;
	int cpu, ret;

	mutex_lock(&fsocket_mutex);
	list_del(&l->in_all);
	fsocket_listener_reset(l);
	mutex_unlock(&fsocket_mutex);
	/* The work looks at all local listeners: it ends before the first of them. */
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			remove_wait_queue(&l->locals[cpu]->wq.wait,
					  &l->locals[cpu]->arrival);
	}
	cancel_delayed_work_sync(&l->move_work);
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			sock_release(l->locals[cpu]->sock);
	}

	ret = orig->release(sock);
	module_put(orig->owner);

	/* A softirq that found sk_wq before sock_release() may still use it. */
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			kfree_rcu(l->locals[cpu], wq.rcu);
	}
	kfree_rcu(l, rcu);
	return ret;
}

/*
 * Back to one shared accept queue, for good: the local listeners are parked and
 * let go of the port, so that the socket can be bound and listen anew.
 */
static void fsocket_listener_kill(struct fsocket_listener *l)
{
	struct sock *shared = l->sock->sk;
	int cpu;

	if (l->dead)
		return;
	l->dead = true;
	fsocket_listener_reset(l);
	lock_sock(shared);
	shared->sk_reuseport = l->reuseport;
	release_sock(shared);
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu])
			inet_put_port(l->locals[cpu]->sock->sk);
	}
}

static int fsocket_listener_shutdown(struct socket *sock, int how)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	int ret;

	mutex_lock(&fsocket_mutex);
	ret = l->orig->shutdown(sock, how);
	if (inet_sk_state_load(sock->sk) != TCP_LISTEN)
		fsocket_listener_kill(l);
	mutex_unlock(&fsocket_mutex);
	return ret;
}

static int fsocket_listener_listen(struct socket *sock, int backlog)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	int cpu, ret;

	mutex_lock(&fsocket_mutex);
	if (inet_sk_state_load(sock->sk) != TCP_LISTEN)
		fsocket_listener_kill(l);
	ret = l->orig->listen(sock, backlog);
	for_each_possible_cpu(cpu) {
		if (!ret && l->locals[cpu])
			WRITE_ONCE(l->locals[cpu]->sock->sk->sk_max_ack_backlog,
				   backlog);
	}
	mutex_unlock(&fsocket_mutex);
	return ret;
}

/* An option set on the shared listener holds for the local ones too. */
static int fsocket_listener_setsockopt(struct socket *sock, int level, int optname,
				       sockptr_t optval, unsigned int optlen)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	const char *obstacle;
	int cpu, ret;

	if (level == SOL_SOCKET)
		ret = sock_setsockopt(sock, level, optname, optval, optlen);
	else
		ret = l->orig->setsockopt(sock, level, optname, optval, optlen);
	if (ret)
		return ret;

	mutex_lock(&fsocket_mutex);
	obstacle = fsocket_inherit_obstacle(sock->sk);
	for_each_possible_cpu(cpu) {
		struct fsocket_local *local = l->locals[cpu];

		if (local && !obstacle &&
		    fsocket_inherit(local->sock->sk, sock->sk))
			obstacle = "its congestion control";
	}
	if (obstacle && !l->dead) {
		fsocket_log(FSOCKET_WARNING,
			    "port %d: local listeners given up, they cannot carry %s\n",
			    inet_sk(sock->sk)->inet_num, obstacle);
		fsocket_listener_kill(l);
	}
	mutex_unlock(&fsocket_mutex);
	return 0;
}

/* Returns the listener of @sock, made if need be; under fsocket_mutex. */
struct fsocket_listener *fsocket_listener_adopt(struct socket *sock)
{
	struct fsocket_listener *l;
	struct sock *sk = sock->sk;
	const char *obstacle;

	if (fsocket_listen_is_ours(sock)) {
		l = fsocket_listener_of(sock);
		if (inet_sk_state_load(sk) != TCP_LISTEN)
			return ERR_PTR(-EINVAL);
		return l->dead ? ERR_PTR(-EOPNOTSUPP) : l;
	}

	if (sock->type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP ||
	    sock->ops->accept != inet_accept || sock->ops->poll != tcp_poll) {
		fsocket_log(FSOCKET_ERR, "not a TCP socket\n");
		return ERR_PTR(-EOPNOTSUPP);
	}
	if (inet_sk_state_load(sk) != TCP_LISTEN) {
		fsocket_log(FSOCKET_ERR, "the socket does not listen\n");
		return ERR_PTR(-EINVAL);
	}
	obstacle = fsocket_inherit_obstacle(sk);
	if (obstacle) {
		fsocket_log(FSOCKET_WARNING,
			    "port %d stays with its shared accept queue: local listeners cannot carry %s\n",
			    inet_sk(sk)->inet_num, obstacle);
		return ERR_PTR(-EOPNOTSUPP);
	}

	l = kzalloc(struct_size(l, locals, nr_cpu_ids), GFP_KERNEL_ACCOUNT);
	if (!l)
		return ERR_PTR(-ENOMEM);
	l->sock = sock;
	l->reuseport = sk->sk_reuseport;
	l->stats = fsocket_stats_of(sock_net(sk));
	INIT_LIST_HEAD(&l->claims);
	INIT_DELAYED_WORK(&l->move_work, fsocket_move_work);
	l->orig = sock->ops;
	l->ops = *l->orig;
	l->ops.owner = THIS_MODULE;
	l->ops.release = fsocket_listener_release;
	fsocket_accept_set_ops(&l->ops);
	l->ops.listen = fsocket_listener_listen;
	l->ops.shutdown = fsocket_listener_shutdown;
	l->ops.setsockopt = fsocket_listener_setsockopt;
	list_add(&l->in_all, &fsocket_listeners);

	/* Held until the socket is closed; sock keeps that of l->orig too. */
	__module_get(THIS_MODULE);
	fsocket_see_sol_socket(sock);
	/* Readers of sock->ops take no lock: publish it complete. */
	smp_store_release(&sock->ops, &l->ops);
	return l;
}

int fsocket_listen_adopt(struct socket *sock)
{
	struct fsocket_listener *l;

	mutex_lock(&fsocket_mutex);
	l = fsocket_listener_adopt(sock);
	mutex_unlock(&fsocket_mutex);
	return PTR_ERR_OR_ZERO(l);
}

/*
 * No SYN is handled on an offline CPU, but one handled on a CPU without local
 * listener may be given to any; the worker meanwhile runs elsewhere.
 */
static int fsocket_listen_cpu_offline(unsigned int cpu)
{
	struct fsocket_listener *l;

	mutex_lock(&fsocket_mutex);
	list_for_each_entry(l, &fsocket_listeners, in_all) {
		if (l->locals[cpu])
			fsocket_local_park(l->locals[cpu]);
	}
	mutex_unlock(&fsocket_mutex);
	return 0;
}

int fsocket_listen_init(void)
{
	int ret;

	ret = fsocket_claims_init();
	if (ret)
		return ret;
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN,
					"net/fastsocket:offline", NULL,
					fsocket_listen_cpu_offline);
	if (ret < 0)
		return ret;
	fsocket_cpuhp_state = ret;
	return 0;
}

void fsocket_listen_exit(void)
{
	cpuhp_remove_state_nocalls(fsocket_cpuhp_state);
}
