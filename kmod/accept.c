// SPDX-License-Identifier: GPL-2.0-only
/*
 * accept() and poll() of a listening socket that has local listeners: from the
 * shared queue first (or connections could starve there), then from the worker's
 * local listener. They take no lock of ours, and are under SRCU.
 */
#include <linux/sched/signal.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "listen.h"
#include "listener.h"
#include "stats.h"

/*
 * The local listener from which current is served: the one it spawned, or, if
 * it shares a CPU with another worker, that of the CPU to which it is pinned.
 */
static struct fsocket_local *fsocket_my_local(struct fsocket_listener *l)
{
	struct fsocket_local *here, *local;
	int cpu;

	here = fsocket_local_at(l, raw_smp_processor_id());
	if (here && READ_ONCE(here->worker) == current)
		return here;
	for_each_possible_cpu(cpu) {
		local = fsocket_local_at(l, cpu);
		if (local && READ_ONCE(local->worker) == current)
			return local;
	}
	return here && current->nr_cpus_allowed == 1 ? here : NULL;
}

/*
 * The local listener from which current can take a connection at once; @mine is
 * its own, if it has one.
 */
static struct fsocket_local *fsocket_queued(struct fsocket_listener *l,
					    struct fsocket_local *mine)
{
	struct fsocket_local *local;
	int cpu;

	if (mine)
		return fsocket_local_queued(mine) ? mine : NULL;
	for_each_possible_cpu(cpu) {
		local = fsocket_local_at(l, cpu);
		if (local && fsocket_local_queued(local))
			return local;
	}
	return NULL;
}

/* Takes one connection if there is one; -EAGAIN if not. */
static int fsocket_accept_one(struct fsocket_listener *l,
			      struct fsocket_local *mine,
			      struct socket *newsock, int flags, bool kern)
{
	struct fsocket_local *local = NULL;
	struct socket *sock;
	int ret = -EAGAIN;

	flags |= O_NONBLOCK;
	if (!fsocket_acceptq_empty(l->sock) || l->sock->sk->sk_state != TCP_LISTEN) {
		ret = fsocket_inet_accept(l->sock, newsock, flags, kern);
		if (!ret)
			this_cpu_inc(l->stats->accept_global);
	}
	if (ret == -EAGAIN)
		local = fsocket_queued(l, mine);
	/* It may just have gone to another CPU. */
	sock = local ? fsocket_local_sock(local) : NULL;
	if (sock) {
		ret = fsocket_inet_accept(sock, newsock, flags, kern);
		if (!ret && local->cpu == raw_smp_processor_id())
			this_cpu_inc(l->stats->accept_local);
		else if (!ret)
			this_cpu_inc(l->stats->accept_remote);
	}
	/* A group of the module's making is no affair of the program. */
	if (!ret)
		newsock->sk->sk_reuseport = l->reuseport;
	return ret;
}

static bool fsocket_accept_idle(struct fsocket_listener *l,
				struct fsocket_local *local)
{
	return fsocket_acceptq_empty(l->sock) && !fsocket_queued(l, local) &&
	       l->sock->sk->sk_state == TCP_LISTEN;
}

static int fsocket_accept_wait(struct fsocket_listener *l,
			       struct fsocket_local *local,
			       struct socket *newsock, int flags, bool kern)
{
	DEFINE_WAIT_FUNC(shared_wait, default_wake_function);
	DEFINE_WAIT_FUNC(local_wait, default_wake_function);
	struct sock *sk = l->sock->sk;
	long timeo = sock_rcvtimeo(sk, false);
	int ret;

	/* Wake-one on the shared queue only, as inet_csk_wait_for_connect(). */
	add_wait_queue_exclusive(sk_sleep(sk), &shared_wait);
	if (local)
		add_wait_queue(&local->wq.wait, &local_wait);
	for (;;) {
		ret = fsocket_accept_one(l, local, newsock, flags, kern);
		if (ret != -EAGAIN || !timeo)
			break;
		if (signal_pending(current)) {
			ret = sock_intr_errno(timeo);
			break;
		}
		set_current_state(TASK_INTERRUPTIBLE);
		if (fsocket_accept_idle(l, local) && !signal_pending(current))
			timeo = schedule_timeout(timeo);
		__set_current_state(TASK_RUNNING);
	}
	if (local)
		remove_wait_queue(&local->wq.wait, &local_wait);
	remove_wait_queue(sk_sleep(sk), &shared_wait);
	return ret;
}

/* As accept() of the original ops, but from all queues; under SRCU. */
static int fsocket_accept_now(struct fsocket_listener *l, struct socket *newsock,
			      int flags, bool kern)
{
	return fsocket_accept_one(l, fsocket_my_local(l), newsock, flags, kern);
}

static int fsocket_listener_accept(struct socket *sock, struct socket *newsock,
				   FSOCKET_ACCEPT_PARAMS)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l;
	int idx, ret = -EAGAIN;

	/* do_accept() has given the new socket the listener's ops. */
	if (newsock->ops)
		newsock->ops = fsocket_orig_ops(newsock);

	idx = srcu_read_lock(&fsocket_srcu);
	l = fsocket_listener_find(sock);
	if (l)
		ret = fsocket_accept_now(l, newsock, FSOCKET_ACCEPT_FLAGS, FSOCKET_ACCEPT_KERN);
	/* Who waits, or ends the listener, needs it for longer than others may wait. */
	if (l && ((ret == -EAGAIN && !(FSOCKET_ACCEPT_FLAGS & O_NONBLOCK)) ||
		  (!ret && FSOCKET_ACCEPT_KERN)))
		refcount_inc(&l->refs);
	else if (l)
		orig = NULL;
	srcu_read_unlock(&fsocket_srcu, idx);
	if (!orig)
		return ret;
	if (!l)
		return fsocket_passing(FSOCKET_ORIG_ACCEPT(orig, sock, newsock));

	if (ret == -EAGAIN)
		ret = fsocket_accept_wait(l, fsocket_my_local(l), newsock,
					  FSOCKET_ACCEPT_FLAGS, FSOCKET_ACCEPT_KERN);
	/* kernel_accept() gives the new socket the listener's ops only now. */
	if (!ret && FSOCKET_ACCEPT_KERN)
		fsocket_listener_end(l);
	fsocket_listener_put(l);
	return ret;
}

static __poll_t fsocket_poll_queues(struct file *file, struct fsocket_listener *l,
				    poll_table *wait)
{
	struct socket *sock = l->sock;
	struct fsocket_local *local;
	__poll_t mask;

	local = fsocket_my_local(l);
	/* tcp_poll() registers with the shared queue, and knows other states. */
	if (poll_does_not_wait(wait) &&
	    inet_sk_state_load(sock->sk) == TCP_LISTEN)
		mask = inet_csk_listen_poll(sock->sk);
	else
		mask = tcp_poll(file, sock, wait);

	if (local && !poll_does_not_wait(wait)) {
		poll_wait(file, &local->wq.wait, wait);
		/* As sock_poll_wait(): registered before we look. */
		smp_mb();
	}
	if (inet_sk_state_load(sock->sk) == TCP_LISTEN &&
	    fsocket_queued(l, local))
		mask |= EPOLLIN | EPOLLRDNORM;
	return mask;
}

static __poll_t fsocket_listener_poll(struct file *file, struct socket *sock,
				      poll_table *wait)
{
	struct fsocket_listener *l;
	__poll_t mask;
	int idx;

	if (!poll_does_not_wait(wait)) {
		l = fsocket_listener_get(sock);
		if (l) {
			fsocket_follow_pin(l);
			fsocket_listener_put(l);
		}
	}
	idx = srcu_read_lock(&fsocket_srcu);
	l = fsocket_listener_find(sock);
	/* tcp_poll() does not sleep. */
	mask = l ? fsocket_poll_queues(file, l, wait) : tcp_poll(file, sock, wait);
	srcu_read_unlock(&fsocket_srcu, idx);
	return mask;
}

void fsocket_accept_set_ops(struct proto_ops *ops)
{
	ops->accept = fsocket_listener_accept;
	ops->poll = fsocket_listener_poll;
}
