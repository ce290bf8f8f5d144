// SPDX-License-Identifier: GPL-2.0-only
/*
 * The local listen table.
 *
 * When workers spawn local listeners of a listening TCP socket (the "shared" listener),
 * the module gives it proto_ops with accept() and poll() of its own, and makes one
 * further TCP listener for each CPU with a worker. These share its port, are in no hash
 * table, and form an SO_REUSEPORT group with it. As each has sk_incoming_cpu set,
 * reuseport_select_sock() gives a SYN to the local listener of the CPU that handles it
 * (net/core/sock_reuseport.c). The stock lookup handles everything else about a packet:
 * TIME_WAIT, SYN cookies, BPF sk_lookup, namespaces. Accepted connections are plain TCP
 * sockets. The local listeners of a listener that the program itself has put into a
 * group (nginx's "reuseport", HAProxy) join that group, unless a BPF program already
 * selects there.
 *
 * A worker sees one listening fd: accept() takes from the shared queue first (otherwise
 * connections could starve there), then from the worker's local listener, and poll()
 * waits for both. Threads that are not workers of the listener, but may wait at the
 * epoll instance of one, take from any local listener.
 *
 * A socket that has our ops is always in TCP_LISTEN. The tracepoint
 * inet_sock_set_state() reports each way out of that state (close(), shutdown(),
 * connect(AF_UNSPEC), tcp_abort()) before the socket leaves it, with the socket locked,
 * and the handler puts the original ops back at once. The ops are also replaced with
 * the socket locked. So the kernel sees the original ops whenever it changes the ops of
 * a TCP socket that does not listen, as kTLS and IPV6_ADDRFORM do. ops.c handles
 * sockets that have our ops all the same. Our functions run under SRCU, hold a
 * reference, or are counted, so the listener, and with it the module, stays until they
 * return.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <net/inet_hashtables.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "hotplug.h"
#include "inherit.h"
#include "listen.h"
#include "listener.h"
#include "log.h"
#include "ops.h"
#include "pins.h"
#include "resolve.h"
#include "stats.h"

static struct tracepoint *fsocket_set_state;

/*
 * The state of a TCP socket, which is locked, changes. If @sk is a listener whose file
 * is being released, fsocket_listener_release() ends it. Otherwise a work item ends it,
 * since bottom halves may be off here; it holds a reference to the file, since it needs
 * the socket.
 */
static void fsocket_state_changes(void *unused, const struct sock *sk,
				  const int old, const int new)
{
	struct fsocket_listener *l;
	struct socket *sock;

	if (likely(old != TCP_LISTEN) || new == TCP_LISTEN)
		return;
	sock = READ_ONCE(sk->sk_socket);
	if (!sock)
		return;
	if (!fsocket_listen_is_ours(sock)) {
		fsocket_local_left(sk);
		return;
	}
	l = fsocket_listener_get(sock);
	if (!l)
		return;
	if (!atomic_long_inc_not_zero(&sock->file->f_count)) {
		fsocket_listener_put(l);
		return;
	}
	fsocket_listener_restore(l);
	WRITE_ONCE(l->file, sock->file);
	queue_work(fsocket_wq, &l->end_work);
}

/* The last reference to the file of @sock is gone, so no other task is in our ops. */
static int fsocket_listener_release(struct socket *sock)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int ret;

	/* do_accept() calls this for a new socket that it could not accept. */
	if (!l)
		return fsocket_ops_release_copy(sock);
	mutex_lock(&l->lock);
	fsocket_listener_hide(l);
	fsocket_listener_clear(l);
	mutex_unlock(&l->lock);
	ret = orig->release(sock);
	/* Drop the reference of the table and that of fsocket_listener_get(). */
	if (refcount_sub_and_test(2, &l->refs) && !fsocket_listener_free(l))
		queue_delayed_work(fsocket_wq, &l->free_work, HZ);
	return ret;
}

/* Ends @l if the call that has just returned made it leave TCP_LISTEN. */
static void fsocket_listener_settle(struct fsocket_listener *l)
{
	if (inet_sk_state_load(l->sock->sk) != TCP_LISTEN) {
		fsocket_listener_end(l);
		fsocket_end_cancel(l);
	}
	fsocket_listener_put(l);
}

static int fsocket_listener_shutdown(struct socket *sock, int how)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int ret;

	if (!l)
		return fsocket_passing(orig->shutdown(sock, how));
	ret = orig->shutdown(sock, how);
	fsocket_listener_settle(l);
	return ret;
}

/* connect(AF_UNSPEC) ends a listener; the kernel refuses every other connect() of one. */
static int fsocket_listener_connect(struct socket *sock, struct sockaddr *addr,
				    int len, int flags)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int ret;

	if (!l)
		return fsocket_passing(orig->connect(sock, addr, len, flags));
	ret = orig->connect(sock, addr, len, flags);
	fsocket_listener_settle(l);
	return ret;
}

/* Each queue may have the length that the program sets; see docs/security.md. */
static int fsocket_listener_listen(struct socket *sock, int backlog)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int cpu, ret;

	if (!l)
		return fsocket_passing(orig->listen(sock, backlog));
	ret = orig->listen(sock, backlog);
	mutex_lock(&l->lock);
	for_each_possible_cpu(cpu) {
		if (!ret && !l->ended && l->locals[cpu] && l->locals[cpu]->sock)
			WRITE_ONCE(l->locals[cpu]->sock->sk->sk_max_ack_backlog, backlog);
	}
	mutex_unlock(&l->lock);
	fsocket_listener_put(l);
	return ret;
}

static void fsocket_listener_set_ops(struct proto_ops *ops)
{
	ops->release = fsocket_listener_release;
	ops->connect = fsocket_listener_connect;
	ops->listen = fsocket_listener_listen;
	ops->shutdown = fsocket_listener_shutdown;
}

static struct fsocket_listener *fsocket_listener_new(struct socket *sock)
{
	struct fsocket_listener *l;

	l = kzalloc(struct_size(l, locals, nr_cpu_ids) +
		    BITS_TO_LONGS(nr_cpu_ids) * sizeof(*l->syn_cpus), GFP_KERNEL_ACCOUNT);
	if (!l)
		return NULL;
	l->calls = alloc_percpu_gfp(int, GFP_KERNEL_ACCOUNT);
	if (!l->calls) {
		kfree(l);
		return NULL;
	}
	l->syn_cpus = (unsigned long *)&l->locals[nr_cpu_ids];
	l->sock = sock;
	l->ino = SOCK_INODE(sock)->i_ino;
	l->stats = fsocket_stats_of(sock_net(sock->sk));
	refcount_set(&l->refs, 1);
	mutex_init(&l->lock);
	INIT_LIST_HEAD(&l->in_all);
	INIT_LIST_HEAD(&l->claims);
	spin_lock_init(&l->claims_lock);
	INIT_WORK(&l->end_work, fsocket_end_work);
	INIT_WORK(&l->tidy_work, fsocket_tidy_work);
	INIT_DELAYED_WORK(&l->free_work, fsocket_free_work);
	return l;
}

/*
 * Puts our ops into @l's socket, which is locked and listens. Returns -EEXIST if
 * another task has just made a listener of it.
 */
static int fsocket_listener_publish(struct fsocket_listener *l)
{
	struct socket *sock = l->sock;
	int ret;

	if (inet_sk_state_load(sock->sk) != TCP_LISTEN)
		return -EINVAL;
	l->reuseport = sock->sk->sk_reuseport;
	mutex_lock(&fsocket_listeners_mutex);
	/* This does not ask whether its ops are ours, which may be a copy: see ops.c. */
	ret = fsocket_listener_find(sock) ? -EEXIST : fsocket_ops_put(sock);
	if (!ret) {
		/* fsocket_listener_free() drops this reference. */
		__module_get(THIS_MODULE);
		fsocket_see_sol_socket(sock, true);
		/*
		 * This comes last: a listener in the list whose socket does not have
		 * our ops is ending.
		 */
		fsocket_listener_show(l);
	}
	mutex_unlock(&fsocket_listeners_mutex);
	return ret;
}

static int fsocket_adoptable(struct socket *sock)
{
	const char *obstacle;

	if (sock->type != SOCK_STREAM || !sk_is_tcp(sock->sk)) {
		fsocket_log(FSOCKET_ERR, "not a TCP socket\n");
		return -EOPNOTSUPP;
	}
	if (inet_sk_state_load(sock->sk) != TCP_LISTEN) {
		fsocket_log(FSOCKET_ERR, "the socket does not listen\n");
		return -EINVAL;
	}
	obstacle = fsocket_inherit_obstacle(sock->sk);
	if (obstacle) {
		fsocket_log(FSOCKET_WARNING,
			    "port %d stays with its shared accept queue: local listeners cannot carry %s\n",
			    inet_sk(sock->sk)->inet_num, obstacle);
		return -EOPNOTSUPP;
	}
	return 0;
}

static struct fsocket_listener *fsocket_listener_adopt(struct socket *sock)
{
	struct fsocket_listener *l;
	int ret;

	for (;;) {
		l = fsocket_listener_get(sock);
		if (l && fsocket_listen_is_ours(sock))
			return l;
		if (l) {
			/* The socket listens again while its former listener is still ending. */
			fsocket_listener_end(l);
			fsocket_listener_put(l);
		}
		ret = fsocket_adoptable(sock);
		if (ret)
			return ERR_PTR(ret);
		l = fsocket_listener_new(sock);
		if (!l)
			return ERR_PTR(-ENOMEM);
		lock_sock(sock->sk);
		ret = fsocket_listener_publish(l);
		if (!ret)
			refcount_inc(&l->refs);
		release_sock(sock->sk);
		if (!ret)
			return l;
		free_percpu(l->calls);
		kfree(l);
		/* Another thread has made the listener meanwhile. */
		if (ret != -EEXIST)
			return ERR_PTR(ret);
	}
}

int fsocket_listen_adopt(struct socket *sock)
{
	struct fsocket_listener *l = fsocket_listener_adopt(sock);

	if (IS_ERR(l))
		return PTR_ERR(l);
	fsocket_listener_put(l);
	return 0;
}

int fsocket_listen_spawn(struct fsocket_claims *file, struct socket *sock, int want)
{
	struct fsocket_listener *l;
	int ret;

	ret = fsocket_spawn_allowed();
	if (ret)
		return ret;
	l = fsocket_listener_adopt(sock);
	if (IS_ERR(l))
		return PTR_ERR(l);
	/* 6.1 does not report options that have been set since the last spawn. */
	ret = fsocket_listener_refresh(l) ? fsocket_spawn_on(file, l, want) : -EOPNOTSUPP;
	fsocket_listener_put(l);
	return ret;
}

static const fsocket_ops_setter fsocket_setters[] = {
	fsocket_listener_set_ops,
	fsocket_accept_set_ops,
	fsocket_options_set_ops,
	fsocket_info_set_ops,
	NULL
};

int fsocket_listen_init(void)
{
	int ret;

	fsocket_set_state = fsocket_find_tracepoint("inet_sock_set_state");
	if (!fsocket_set_state)
		return -EOPNOTSUPP;
	fsocket_wq = alloc_workqueue("fastsocket", WQ_UNBOUND, WQ_UNBOUND_MAX_ACTIVE);
	if (!fsocket_wq)
		return -ENOMEM;
	fsocket_accept_init();
	ret = fsocket_ops_init(fsocket_setters);
	if (ret)
		goto err_wq;
	ret = fsocket_pins_init();
	if (ret)
		goto err_ops;
	ret = fsocket_claims_init();
	if (ret)
		goto err_pins;
	ret = fsocket_hotplug_init();
	if (ret)
		goto err_claims;
	ret = tracepoint_probe_register(fsocket_set_state, fsocket_state_changes, NULL);
	if (!ret)
		return 0;
	fsocket_hotplug_exit();
err_claims:
	fsocket_claims_exit();
err_pins:
	fsocket_pins_exit();
err_ops:
	fsocket_ops_exit();
err_wq:
	destroy_workqueue(fsocket_wq);
	return ret;
}

void fsocket_listen_exit(void)
{
	tracepoint_probe_unregister(fsocket_set_state, fsocket_state_changes, NULL);
	tracepoint_synchronize_unregister();
	fsocket_hotplug_exit();
	fsocket_claims_exit();
	fsocket_pins_exit();
	fsocket_ops_exit();
	/*
	 * Wait for tasks in poll() of a socket whose listener has ended: they hold no reference
	 * to the module, and may sleep, as a poll table allocates memory when it registers.
	 */
	synchronize_srcu(&fsocket_srcu);
	srcu_barrier(&fsocket_srcu);
	/* Wait until claims are freed. */
	rcu_barrier();
	destroy_workqueue(fsocket_wq);
	/* The task that put the last reference to the module may not have returned yet. */
	synchronize_rcu_tasks();
}
