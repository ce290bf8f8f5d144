// SPDX-License-Identifier: GPL-2.0-only
/*
 * accept() and poll() of a listening socket that has local listeners. accept() takes from
 * the shared queue first, since connections could starve there. A wakeup of that queue is
 * for one task, which has to take the connection. Then it takes the oldest connection of
 * the worker's local listener and its guests (cover.c), and sometimes that of a guest whose
 * worker is late. Both functions take no lock of the module. poll() runs in an SRCU read
 * section; accept() may sleep for as long as the program holds the lock of the socket, and
 * is counted instead, as it would keep all ended listeners from being freed.
 */
#include <linux/sched/signal.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "listener.h"
#include "ops.h"
#include "resolve.h"
#include "stats.h"

/*
 * A worker takes a connection from a guest of another one if it has waited by this many
 * microseconds longer than the worker's own. The other worker has been woken for it, and
 * may be about to take it.
 */
#define FSOCKET_HELP_AFTER	1000

/* At how many guests of others a worker looks that has no connections of its own. */
#define FSOCKET_HELP_LOOKS	8

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
 * Returns when the first connection in the queue of @sk was established, by the clock of
 * TCP in microseconds; U64_MAX if there is none. Until accept() that time does not change.
 */
static u64 fsocket_waits_since(const struct sock *sk)
{
	const struct request_sock *head;
	const struct sock *child;
	u64 since = U64_MAX;

	/*
	 * Another worker may take @head meanwhile. It and its child stay memory of such objects
	 * for a grace period, as their slabs are SLAB_TYPESAFE_BY_RCU.
	 */
	rcu_read_lock();
	head = READ_ONCE(inet_csk(sk)->icsk_accept_queue.rskq_accept_head);
	child = head ? READ_ONCE(head->sk) : NULL;
	if (child)
		since = READ_ONCE(tcp_sk(child)->rcvq_space.time);
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
 * from that and from its guests, any other task from all of them.
 */
static struct fsocket_oldest fsocket_own_oldest(struct fsocket_listener *l,
						struct fsocket_local *mine)
{
	struct fsocket_oldest oldest = { NULL, U64_MAX };
	int cpu;

	if (!mine) {
		for_each_possible_cpu(cpu)
			fsocket_compare(&oldest, fsocket_local_at(l, cpu));
	} else if (!READ_ONCE(l->guests)) {
		/* There is nothing to compare it with. */
		if (fsocket_local_queued(mine))
			oldest.local = mine;
	} else {
		/* A bit may be seen before what it stands for. */
		for_each_set_bit(cpu, mine->served, nr_cpu_ids)
			fsocket_compare(&oldest, fsocket_local_at(l, cpu));
	}
	return oldest;
}

/*
 * Returns a guest of another worker whose first connection has waited longer than that of
 * @own by FSOCKET_HELP_AFTER, or @own. Of workers with a share of the guests each, one may
 * have many connections while another has none.
 *
 * A look at a guest costs a cache line that another CPU has written, so each call looks at
 * one guest if there is something else to do, the next one in turn.
 */
static struct fsocket_oldest fsocket_help(struct fsocket_listener *l, struct fsocket_local *mine,
					  struct fsocket_oldest own)
{
	unsigned int looks = own.local ? 1 : FSOCKET_HELP_LOOKS, after = READ_ONCE(mine->turn) + 1;
	struct fsocket_oldest other = { NULL, own.local ? own.since : tcp_clock_us() };
	const struct fsocket_local *host;
	struct fsocket_local *local;
	int cpu;

	/* The time is 0 for a moment after a connection has come into a queue. */
	if (other.since < FSOCKET_HELP_AFTER)
		return own;
	other.since -= FSOCKET_HELP_AFTER;
	for_each_set_bit_wrap(cpu, l->syn_cpus, nr_cpu_ids, after) {
		local = fsocket_local_at(l, cpu);
		host = local ? READ_ONCE(local->host) : NULL;
		if (!host || host == mine)
			continue;
		WRITE_ONCE(mine->turn, cpu);
		fsocket_compare(&other, local);
		if (other.local || !--looks)
			break;
	}
	return other.local ? other : own;
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
 * Stores in @local the local listener from which current, whose own is @mine, is to take a
 * connection; NULL: the shared queue. Returns false if no queue has any.
 */
static bool fsocket_choose(struct fsocket_listener *l, struct fsocket_local *mine,
			   struct fsocket_local **local)
{
	struct fsocket_oldest oldest;

	*local = NULL;
	if (!fsocket_acceptq_empty(l->sock) || l->sock->sk->sk_state != TCP_LISTEN)
		return true;
	oldest = fsocket_own_oldest(l, mine);
	if (mine && READ_ONCE(l->guests) > READ_ONCE(mine->guests))
		oldest = fsocket_help(l, mine, oldest);
	*local = oldest.local;
	return *local;
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
		if (!fsocket_choose(l, mine, &local))
			return -EAGAIN;
		/* NULL if the socket has just moved to the local listener of another CPU. */
		sock = local ? fsocket_local_sock(local) : l->sock;
		ret = sock ? fsocket_inet_accept(sock, newsock, flags, kern) : -EAGAIN;
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
	return fsocket_acceptq_empty(l->sock) && !fsocket_own_oldest(l, local).local &&
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

/*
 * Linux AIO (IOCB_CMD_POLL) waits at one wait queue, and refuses a file that has two. So it
 * waits at the shared one, to which connections that wait elsewhere move when they are late.
 */
static const void *fsocket_aio_queue_proc __read_mostly;

static bool fsocket_polled_by_aio(const poll_table *wait)
{
	return wait && wait->_qproc && wait->_qproc == fsocket_aio_queue_proc;
}

static __poll_t fsocket_poll_queues(struct file *file, struct fsocket_listener *l,
				    poll_table *wait)
{
	struct socket *sock = l->sock;
	struct fsocket_local *local;
	__poll_t mask;

	local = fsocket_polled_by_aio(wait) ? NULL : fsocket_my_local(l);
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
	    fsocket_own_oldest(l, local).local)
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

void fsocket_accept_init(void)
{
	/* NULL if the kernel has no Linux AIO. */
	fsocket_aio_queue_proc = fsocket_resolve("aio_poll_queue_proc");
}

void fsocket_accept_set_ops(struct proto_ops *ops)
{
	ops->accept = fsocket_listener_accept;
	ops->poll = fsocket_listener_poll;
}
