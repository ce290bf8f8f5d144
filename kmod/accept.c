// SPDX-License-Identifier: GPL-2.0-only
/*
 * accept() and poll() of a listening socket that has local listeners. accept() takes the
 * connection that has waited longest among the shared queue, the worker's local listener, and
 * the local listeners of CPUs without worker (cover.c). Both functions take no lock of the
 * module. poll() runs in an SRCU read section; accept() may sleep for as long as the program
 * holds the lock of the socket, and is counted instead, as it would keep all ended listeners
 * from being freed.
 */
#include <linux/sched/signal.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "listener.h"
#include "ops.h"
#include "stats.h"

/*
 * Returns the local listener of current: the one that it has spawned, or, if it
 * shares a CPU with another worker, the one of the CPU to which it is pinned.
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
	return here && current->nr_cpus_allowed == 1 && !READ_ONCE(here->host) ? here : NULL;
}

/*
 * Returns since when the first connection in the queue of @sk waits, by the clock of TCP;
 * U64_MAX if there is none. That is when its SYN was answered, for which the kernel keeps
 * a time only if it keeps the request (no SYN cookie, no Fast Open).
 */
static u64 fsocket_waits_since(const struct sock *sk)
{
	const struct request_sock *head;
	const struct sock *child;
	u64 since = U64_MAX;

	/* Another worker may take @head meanwhile. Its slab is SLAB_TYPESAFE_BY_RCU. */
	rcu_read_lock();
	head = READ_ONCE(inet_csk(sk)->icsk_accept_queue.rskq_accept_head);
	if (head)
		since = READ_ONCE(tcp_rsk(head)->snt_synack);
	if (!since) {
		child = READ_ONCE(head->sk);
		if (child)
			since = READ_ONCE(tcp_sk(child)->tcp_mstamp);
	}
	rcu_read_unlock();
	return since;
}

/* A local listener, and since when the first connection in its queue waits. */
struct fsocket_oldest {
	struct fsocket_local *local;
	u64 since;
};

/* Stores @local in @oldest if its first connection has waited longer. */
static void fsocket_compare(struct fsocket_oldest *oldest, struct fsocket_local *local)
{
	const struct socket *sock = local ? fsocket_local_sock(local) : NULL;
	u64 since = sock ? fsocket_waits_since(sock->sk) : U64_MAX;

	if (since < oldest->since)
		*oldest = (struct fsocket_oldest){ local, since };
}

/*
 * Returns the local listener from which current, whose own is @mine, is to take a
 * connection; its member local is NULL if none has any. A task with a local listener takes
 * from that and from all guests (cover.c): a guest is on no worker's CPU, so any worker
 * that is free may serve it. Any other task takes from all local listeners.
 */
static struct fsocket_oldest fsocket_queued(struct fsocket_listener *l,
					    struct fsocket_local *mine)
{
	struct fsocket_oldest oldest = { NULL, U64_MAX };
	struct fsocket_local *local;
	int cpu;

	if (!mine) {
		for_each_possible_cpu(cpu)
			fsocket_compare(&oldest, fsocket_local_at(l, cpu));
		return oldest;
	}
	if (!READ_ONCE(l->guests)) {
		/* Only the shared queue may have something older. */
		if (fsocket_acceptq_empty(l->sock) && fsocket_local_queued(mine))
			return (struct fsocket_oldest){ mine, 0 };
		fsocket_compare(&oldest, mine);
		return oldest;
	}
	fsocket_compare(&oldest, mine);
	for_each_set_bit(cpu, l->syn_cpus, nr_cpu_ids) {
		local = fsocket_local_at(l, cpu);
		if (local && local != mine && READ_ONCE(local->host))
			fsocket_compare(&oldest, local);
	}
	return oldest;
}

/* current has taken @sk from @local; NULL: the shared queue. */
static void fsocket_accepted(struct fsocket_listener *l,
			     const struct fsocket_local *local, const struct sock *sk)
{
	int cpu = READ_ONCE(sk->sk_incoming_cpu), here = raw_smp_processor_id();

	if (!local)
		this_cpu_inc(l->stats->accept_global);
	else if (local->cpu == here)
		this_cpu_inc(l->stats->accept_local);
	else if (READ_ONCE(local->host))
		this_cpu_inc(l->stats->accept_covered);
	else
		this_cpu_inc(l->stats->accept_remote);
	if (!local || local->cpu != cpu)
		fsocket_cover_want(l, cpu);
}

/*
 * Returns the socket from whose queue current, whose local listener is @mine, is to take a
 * connection, or NULL if no queue has any. Stores its local listener in @local; NULL: the
 * shared queue.
 */
static struct socket *fsocket_next(struct fsocket_listener *l, struct fsocket_local *mine,
				   struct fsocket_local **local)
{
	struct fsocket_oldest oldest = fsocket_queued(l, mine);

	*local = NULL;
	if (l->sock->sk->sk_state != TCP_LISTEN ||
	    (!fsocket_acceptq_empty(l->sock) &&
	     fsocket_waits_since(l->sock->sk) <= oldest.since))
		return l->sock;
	*local = oldest.local;
	/* NULL if the socket has just moved to the local listener of another CPU. */
	return oldest.local ? fsocket_local_sock(oldest.local) : NULL;
}

/* Accepts one connection without waiting; returns -EAGAIN if no queue has one. */
static int fsocket_accept_one(struct fsocket_listener *l,
			      struct fsocket_local *mine,
			      struct socket *newsock, int flags, bool kern)
{
	struct fsocket_local *local;
	struct socket *sock;
	int ret;

	flags |= O_NONBLOCK;
	do {
		sock = fsocket_next(l, mine, &local);
		if (!sock)
			return -EAGAIN;
		ret = fsocket_inet_accept(sock, newsock, flags, kern);
		/* It has ended: what waited there is in the shared queue, if that still listens. */
		if (local && ret == -EINVAL)
			ret = -EAGAIN;
		/* Another worker has been faster, and other queues may have connections. */
	} while (ret == -EAGAIN);
	if (ret)
		return ret;
	fsocket_accepted(l, local, newsock->sk);
	/* The program sees its own SO_REUSEPORT, not the one that the module has set. */
	newsock->sk->sk_reuseport = l->reuseport;
	return 0;
}

static bool fsocket_accept_idle(struct fsocket_listener *l,
				struct fsocket_local *local)
{
	return fsocket_acceptq_empty(l->sock) && !fsocket_queued(l, local).local &&
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

	/* Only the shared queue wakes one waiter, as in inet_csk_wait_for_connect(). */
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

/* The listener of @sock, which stays until fsocket_call_ends(); or NULL. */
static struct fsocket_listener *fsocket_call_begins(const struct socket *sock)
{
	struct fsocket_listener *l;
	int idx;

	idx = srcu_read_lock(&fsocket_srcu);
	l = fsocket_listener_find(sock);
	if (l)
		this_cpu_inc(*l->calls);
	srcu_read_unlock(&fsocket_srcu, idx);
	return l;
}

static void fsocket_call_ends(struct fsocket_listener *l)
{
	/* Pairs with fsocket_listener_called(): it is freed after its last use. */
	smp_mb();
	this_cpu_dec(*l->calls);
}

static int fsocket_listener_accept(struct socket *sock, struct socket *newsock,
				   FSOCKET_ACCEPT_PARAMS)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	struct fsocket_listener *l;
	int ret;

	/* do_accept() has copied the listener's ops to the new socket: put back TCP's. */
	if (newsock->ops)
		fsocket_ops_take_back(newsock);

	l = fsocket_call_begins(sock);
	if (!l)
		return fsocket_passing(FSOCKET_ORIG_ACCEPT(orig, sock, newsock));
	ret = fsocket_accept_one(l, fsocket_my_local(l), newsock, FSOCKET_ACCEPT_FLAGS,
				 FSOCKET_ACCEPT_KERN);
	if (ret == -EAGAIN && !(FSOCKET_ACCEPT_FLAGS & O_NONBLOCK))
		ret = fsocket_accept_wait(l, fsocket_my_local(l), newsock,
					  FSOCKET_ACCEPT_FLAGS, FSOCKET_ACCEPT_KERN);
	/*
	 * kernel_accept() copies the listener's ops to the new socket after this function
	 * has returned, so end the listener, which gives it its original ops back.
	 */
	if (!ret && FSOCKET_ACCEPT_KERN)
		fsocket_listener_end(l);
	fsocket_call_ends(l);
	return ret;
}

static __poll_t fsocket_poll_queues(struct file *file, struct fsocket_listener *l,
				    poll_table *wait)
{
	struct socket *sock = l->sock;
	struct fsocket_local *local;
	__poll_t mask;

	local = fsocket_my_local(l);
	/* tcp_poll() registers with the shared queue, and handles states other than LISTEN. */
	if (poll_does_not_wait(wait) &&
	    inet_sk_state_load(sock->sk) == TCP_LISTEN)
		mask = inet_csk_listen_poll(sock->sk);
	else
		mask = tcp_poll(file, sock, wait);

	if (local && !poll_does_not_wait(wait)) {
		poll_wait(file, &local->wq.wait, wait);
		/* As in sock_poll_wait(): register before the queue is looked at. */
		smp_mb();
	}
	if (inet_sk_state_load(sock->sk) == TCP_LISTEN &&
	    fsocket_queued(l, local).local)
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
	/* Without a listener only this read section keeps the module: see fsocket_listen_exit(). */
	mask = l ? fsocket_poll_queues(file, l, wait) : tcp_poll(file, sock, wait);
	srcu_read_unlock(&fsocket_srcu, idx);
	return mask;
}

void fsocket_accept_set_ops(struct proto_ops *ops)
{
	ops->accept = fsocket_listener_accept;
	ops->poll = fsocket_listener_poll;
}
