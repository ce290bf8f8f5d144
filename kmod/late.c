// SPDX-License-Identifier: GPL-2.0-only
/*
 * How connections move from the accept queue of a local listener to the shared one.
 *
 * They move when the local listener is parked, and when they are late. A timer, which
 * runs only while connections wait, looks at the first one in the queue. If it sees the
 * same one for the second time while the worker sleeps and another worker of the
 * listener also sleeps, all connections that wait move to the shared queue. If the
 * first one stays for FSOCKET_STUCK looks, 100 ms by default, they move whether or not
 * workers sleep: the worker computes, or its CPU is busy. The timer also looks at the
 * queues of guests (cover.c).
 */
#include <net/sock.h>
#include <net/tcp.h>

#include "late.h"
#include "listener.h"
#include "stats.h"

#define FSOCKET_STUCK	25

unsigned int fsocket_steal_after_ms = 8;

/* Moves @req, just removed from a local queue, to that of @to; bottom halves are off. */
static bool fsocket_move_one(struct sock *to, struct request_sock *req)
{
	struct sock *child = req->sk;
	bool moved;

	/* inet_csk_listen_stop() handles the same children in this way. */
	bh_lock_sock_nested(child);
	sock_hold(child);
	moved = inet_csk_reqsk_queue_add(to, req, child);
	if (!moved) {
		/* The shared listener no longer listens, and has dropped the child. */
		reqsk_put(req);
	}
	bh_unlock_sock(child);
	sock_put(child);
	return moved;
}

/*
 * Moves the connections that wait at @from to the shared queue of @to until that is
 * full, and returns their number. If @to no longer listens, they stay: they end, or are
 * migrated, with @from. The caller has locked the local socket, so that
 * inet_csk_accept() does not take the same ones, and bottom halves are off.
 */
static unsigned int fsocket_drain(struct sock *from, struct sock *to)
{
	struct request_sock_queue *queue = &inet_csk(from)->icsk_accept_queue;
	struct request_sock *req;
	unsigned int moved = 0;

	while (inet_sk_state_load(to) == TCP_LISTEN && !sk_acceptq_is_full(to) &&
	       !reqsk_queue_empty(queue)) {
		req = reqsk_queue_remove(queue, from);
		if (!req)
			break;
		moved += fsocket_move_one(to, req);
	}
	return moved;
}

/*
 * Wakes tasks for @moved connections in the shared queue of @to. sk_data_ready() wakes one of
 * those that wait exclusively, as in accept().
 */
static void fsocket_moved(struct sock *to, unsigned int moved)
{
	struct socket_wq *wq;

	if (!moved)
		return;
	to->sk_data_ready(to);
	if (moved == 1)
		return;
	rcu_read_lock();
	wq = rcu_dereference(to->sk_wq);
	if (skwq_has_sleeper(wq))
		__wake_up(&wq->wait, TASK_INTERRUPTIBLE, moved - 1,
			  poll_to_key(EPOLLIN | EPOLLRDNORM));
	rcu_read_unlock();
}

void fsocket_local_move(struct fsocket_local *local)
{
	struct sock *from = local->sock->sk, *to = local->listener->sock->sk;
	unsigned int moved;

	lock_sock(from);
	local_bh_disable();
	moved = fsocket_drain(from, to);
	this_cpu_add(local->listener->stats->moved, moved);
	local_bh_enable();
	release_sock(from);
	fsocket_moved(to, moved);
}

static unsigned long fsocket_look_after(void)
{
	return max(msecs_to_jiffies(READ_ONCE(fsocket_steal_after_ms)) / 2, 1UL);
}

/*
 * Returns whether the worker of @local sleeps although connections have woken it, so
 * that it waits for something else. A worker in TASK_RUNNING is at work, or its CPU is
 * busy. TASK_WAKING counts as running: another CPU has woken the worker, as for a
 * guest, and the worker's CPU has not handled that yet.
 */
static bool fsocket_worker_sleeps(const struct fsocket_local *local)
{
	const struct task_struct *worker;
	unsigned int state = 0;
	bool sleeps;

	rcu_read_lock();
	worker = READ_ONCE(local->worker);
	if (worker)
		state = READ_ONCE(worker->__state);
	sleeps = !worker || (state != TASK_RUNNING && state != TASK_WAKING);
	rcu_read_unlock();
	return sleeps;
}

/* Returns whether a worker of @l other than that of @local sleeps, as in epoll_wait(). */
static bool fsocket_other_sleeps(struct fsocket_listener *l,
				 const struct fsocket_local *local)
{
	const struct task_struct *worker;
	struct fsocket_local *other;
	bool sleeps = false;
	int cpu;

	rcu_read_lock();
	for_each_possible_cpu(cpu) {
		other = READ_ONCE(l->locals[cpu]);
		if (!other || other == local)
			continue;
		worker = READ_ONCE(other->worker);
		if (worker && READ_ONCE(worker->__state) & TASK_INTERRUPTIBLE) {
			sleeps = true;
			break;
		}
	}
	rcu_read_unlock();
	return sleeps;
}

static bool fsocket_worker_ended(const struct fsocket_local *local)
{
	const struct task_struct *worker;
	bool ended;

	rcu_read_lock();
	worker = READ_ONCE(local->worker);
	ended = worker && READ_ONCE(worker->exit_state);
	rcu_read_unlock();
	return ended;
}

/*
 * Moves the connections that wait at @local to the shared queue; called in softirq.
 * Returns false if it has to be tried again.
 */
static bool fsocket_local_steal(struct fsocket_local *local, struct sock *from)
{
	struct sock *to = local->listener->sock->sk;
	unsigned int moved = 0;
	bool mine;

	bh_lock_sock(from);
	mine = !sock_owned_by_user(from);
	if (mine)
		moved = fsocket_drain(from, to);
	bh_unlock_sock(from);
	this_cpu_add(local->listener->stats->stolen, moved);
	fsocket_moved(to, moved);
	return mine && reqsk_queue_empty(&inet_csk(from)->icsk_accept_queue);
}

/*
 * Returns the time until the next look at @local, where connections wait. A program
 * that neither accepts nor leaves room in the shared queue can make them wait for any
 * time, so the looks become rarer, down to one a second.
 */
static unsigned long fsocket_look_again(const struct fsocket_local *local)
{
	unsigned long after = fsocket_look_after();
	unsigned int late = min(local->late / FSOCKET_STUCK, 8U);

	return max(after, min(after << late, (unsigned long)HZ));
}

/*
 * Looks at @local, which the worker of @host serves. Returns the jiffies until the next
 * look, or 0 if no connections wait there.
 */
static unsigned long fsocket_look_at(struct fsocket_local *local,
				     const struct fsocket_local *host)
{
	struct fsocket_listener *l = local->listener;
	const struct socket *sock = fsocket_local_sock(local);
	const struct request_sock *head;

	/* The socket has moved to another CPU's place, whose timer runs. */
	if (!sock)
		return 0;
	head = READ_ONCE(inet_csk(sock->sk)->icsk_accept_queue.rskq_accept_head);
	if (head != local->seen) {
		local->seen = head;
		local->late = 0;
	} else if (head && !local->late++) {
		this_cpu_inc(l->stats->overdue);
	}
	if (!head)
		return 0;
	if (local->late && fsocket_worker_ended(host))
		fsocket_listener_tidy(l);
	if ((!READ_ONCE(local->attached) || local->late >= FSOCKET_STUCK ||
	     (local->late && fsocket_worker_sleeps(host) && fsocket_other_sleeps(l, host))) &&
	    fsocket_local_steal(local, sock->sk)) {
		local->seen = NULL;
		return 0;
	}
	return fsocket_look_again(local);
}

static void fsocket_local_look(struct timer_list *timer)
{
	struct fsocket_local *local = from_timer(local, timer, timer), *guest;
	unsigned long after = 0;
	int cpu;

	/* The program has set O_ASYNC, of which the kernel does not tell: see tidy.c. */
	if (sock_flag(local->listener->sock->sk, SOCK_FASYNC))
		fsocket_listener_tidy(local->listener);
	/* The timer of the host looks at a guest; see fsocket_local_hand(). */
	if (!READ_ONCE(local->host))
		after = fsocket_look_at(local, local);
	if (READ_ONCE(local->guests)) {
		for_each_set_bit(cpu, local->served, nr_cpu_ids) {
			guest = fsocket_local_at(local->listener, cpu);
			/* A bit may be seen before what it stands for. */
			if (guest && guest != local)
				after = min_not_zero(after, fsocket_look_at(guest, local));
		}
	}
	/* fsocket_arrived() may have set an earlier time meanwhile. */
	if (after)
		timer_reduce(timer, jiffies + after);
}

/* Runs in softirq when a connection arrives at a local listener. */
static int fsocket_arrived(wait_queue_entry_t *entry, unsigned int mode,
			   int sync, void *key)
{
	struct fsocket_local *local =
		container_of(entry, struct fsocket_local, arrival);

	timer_reduce(&local->timer, jiffies + fsocket_look_after());
	return 0;
}

void fsocket_local_watch(struct fsocket_local *local)
{
	init_waitqueue_func_entry(&local->arrival, fsocket_arrived);
	add_wait_queue(&local->wq.wait, &local->arrival);
	timer_setup(&local->timer, fsocket_local_look, TIMER_PINNED);
}

void fsocket_local_look_soon(struct fsocket_local *local)
{
	timer_reduce(&local->timer, jiffies + fsocket_look_after());
}
