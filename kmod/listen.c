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
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/pid.h>
#include <linux/poll.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/security.h>
#include <linux/seq_file_net.h>
#include <linux/slab.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/sock.h>
#include <net/sock_reuseport.h>
#include <net/tcp.h>

#include "compat.h"
#include "inherit.h"
#include "listen.h"
#include "params.h"
#include "resolve.h"
#include "stats.h"
#include "trace.h"

/* How long a connection waits where nobody waits for it, in jiffies. */
#define FSOCKET_UNWATCHED	(HZ / 2)

struct fsocket_local {
	struct fsocket_listener *listener;
	struct socket *sock;
	/*
	 * The wait queue of @sock. Here, not there, since pollers of the shared
	 * listener stay registered with it for as long as that is open.
	 */
	struct socket_wq wq;
	/* On @wq: sees connections arrive. */
	wait_queue_entry_t arrival;
	/* The latest to have claimed it; compared, never dereferenced. */
	const struct task_struct *worker;
	unsigned int claims;
	int cpu;
	bool attached;
};

struct fsocket_listener {
	/* What sock->ops points to, until the socket is closed. */
	struct proto_ops ops;
	const struct proto_ops *orig;
	struct socket *sock;
	struct fsocket_stats __percpu *stats;
	struct list_head in_all;
	struct list_head claims;
	struct delayed_work move_work;
	/* Has been shut down, or got an option that cannot be inherited. */
	bool dead;
	/* The program itself asked for SO_REUSEPORT. */
	bool reuseport;
	struct rcu_head rcu;
	/* By CPU. Set once, under fsocket_mutex; read without lock. */
	struct fsocket_local *locals[];
};

/* A worker's share in a local listener. */
struct fsocket_claim {
	struct list_head in_listener;
	struct list_head in_file;
	struct fsocket_local *local;
	/* The process: its table of open files, as ->flush() names it. */
	fl_owner_t owner;
	const struct task_struct *worker;
	/* We have pinned the worker, which was allowed these CPUs before. */
	bool pinned;
	struct cpumask allowed;
	/* The same thread, for /proc/net/fastsocket_listeners. */
	struct pid *pid;
};

/*
 * Serialises everything but accept() and poll(): spawning, retiring, closing.
 * Taken before any socket lock.
 */
static DEFINE_MUTEX(fsocket_mutex);

static LIST_HEAD(fsocket_listeners);

/* Claims on each CPU, of all listeners; under fsocket_mutex. */
static DEFINE_PER_CPU(unsigned int, fsocket_cpu_claims);

static enum cpuhp_state fsocket_cpuhp_state;

/* sched_setaffinity(2), within the bounds of cpusets. */
static long (*fsocket_sched_setaffinity)(pid_t pid, const struct cpumask *mask);

static int fsocket_accept(struct socket *sock, struct socket *newsock,
			  FSOCKET_ACCEPT_PARAMS);

bool fsocket_listen_is_ours(const struct socket *sock)
{
	return READ_ONCE(sock->ops)->accept == fsocket_accept;
}

static struct fsocket_listener *fsocket_listener_of(const struct socket *sock)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	return (struct fsocket_listener *)container_of(ops, struct fsocket_listener, ops);
}

static bool fsocket_queue_empty(const struct socket *sock)
{
	return reqsk_queue_empty(&inet_csk(sock->sk)->icsk_accept_queue);
}

/*
 * The local listener from which current is served: the one it spawned, or, if
 * it shares a CPU with another worker, that of the CPU to which it is pinned.
 */
static struct fsocket_local *fsocket_my_local(struct fsocket_listener *l)
{
	struct fsocket_local *here, *local;
	int cpu;

	here = READ_ONCE(l->locals[raw_smp_processor_id()]);
	if (here && READ_ONCE(here->worker) == current)
		return here;
	for_each_possible_cpu(cpu) {
		local = READ_ONCE(l->locals[cpu]);
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
		return fsocket_queue_empty(mine->sock) ? NULL : mine;
	for_each_possible_cpu(cpu) {
		local = READ_ONCE(l->locals[cpu]);
		if (local && !fsocket_queue_empty(local->sock))
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
	int ret = -EAGAIN;

	flags |= O_NONBLOCK;
	if (!fsocket_queue_empty(l->sock) || l->sock->sk->sk_state != TCP_LISTEN) {
		ret = fsocket_inet_accept(l->sock, newsock, flags, kern);
		if (!ret)
			this_cpu_inc(l->stats->accept_global);
	}
	if (ret == -EAGAIN)
		local = fsocket_queued(l, mine);
	if (local) {
		ret = fsocket_inet_accept(local->sock, newsock, flags, kern);
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
	return fsocket_queue_empty(l->sock) && !fsocket_queued(l, local) &&
	       l->sock->sk->sk_state == TCP_LISTEN;
}

const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock)
{
	const struct proto_ops *ops = READ_ONCE(sock->ops);

	if (ops->accept == fsocket_accept)
		return fsocket_listener_of(sock)->orig;
	return ops->accept == inet_accept && sock->type == SOCK_STREAM &&
	       sock->sk->sk_protocol == IPPROTO_TCP ? ops : NULL;
}

bool fsocket_listen_idle(const struct socket *sock)
{
	struct fsocket_listener *l;

	if (fsocket_listen_is_ours(sock)) {
		l = fsocket_listener_of(sock);
		return fsocket_accept_idle(l, fsocket_my_local(l));
	}
	return fsocket_queue_empty(sock) &&
	       inet_sk_state_load(sock->sk) == TCP_LISTEN;
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

static int fsocket_accept(struct socket *sock, struct socket *newsock,
			  FSOCKET_ACCEPT_PARAMS)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	struct fsocket_local *local = fsocket_my_local(l);
	int ret;

	/*
	 * do_accept() has given the new socket the listener's ops and a
	 * reference to their owner. It gets the plain ones back, on every path.
	 * (It has them already if the listener was adopted just in between.)
	 */
	if (newsock->ops == &l->ops) {
		__module_get(l->orig->owner);
		newsock->ops = l->orig;
		module_put(THIS_MODULE);
	}

	ret = fsocket_accept_one(l, local, newsock, FSOCKET_ACCEPT_FLAGS,
				 FSOCKET_ACCEPT_KERN);
	if (ret == -EAGAIN && !(FSOCKET_ACCEPT_FLAGS & O_NONBLOCK))
		ret = fsocket_accept_wait(l, local, newsock,
					  FSOCKET_ACCEPT_FLAGS,
					  FSOCKET_ACCEPT_KERN);
	return ret;
}

static void fsocket_follow_pin(struct fsocket_listener *l);

static __poll_t fsocket_poll(struct file *file, struct socket *sock,
			     poll_table *wait)
{
	struct fsocket_listener *l = fsocket_listener_of(sock);
	struct fsocket_local *local;
	__poll_t mask;

	if (!poll_does_not_wait(wait))
		fsocket_follow_pin(l);
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

static void fsocket_move_work(struct work_struct *work)
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

static void fsocket_local_park(struct fsocket_local *local)
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

static void fsocket_claim_enter(struct fsocket_claim *claim,
				struct fsocket_local *local)
{
	claim->local = local;
	local->claims++;
	(*per_cpu_ptr(&fsocket_cpu_claims, local->cpu))++;
	WRITE_ONCE(local->worker, claim->worker);
}

static void fsocket_claim_leave(struct fsocket_claim *claim)
{
	struct fsocket_local *local = claim->local;

	if (local->worker == claim->worker)
		WRITE_ONCE(local->worker, NULL);
	(*per_cpu_ptr(&fsocket_cpu_claims, local->cpu))--;
	if (!--local->claims)
		fsocket_local_park(local);
}

static void fsocket_claim_drop(struct fsocket_claim *claim)
{
	fsocket_claim_leave(claim);
	list_del(&claim->in_listener);
	list_del(&claim->in_file);
	put_pid(claim->pid);
	kfree(claim);
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

static int fsocket_release(struct socket *sock)
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

static int fsocket_shutdown(struct socket *sock, int how)
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

static int fsocket_listen(struct socket *sock, int backlog)
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
static int fsocket_setsockopt(struct socket *sock, int level, int optname,
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
static struct fsocket_listener *fsocket_adopt(struct socket *sock)
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
	l->ops.release = fsocket_release;
	l->ops.accept = fsocket_accept;
	l->ops.poll = fsocket_poll;
	l->ops.listen = fsocket_listen;
	l->ops.shutdown = fsocket_shutdown;
	l->ops.setsockopt = fsocket_setsockopt;
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
	l = fsocket_adopt(sock);
	mutex_unlock(&fsocket_mutex);
	return PTR_ERR_OR_ZERO(l);
}

/*
 * The CPUs that current may choose from. It may have inherited its one CPU by
 * fork: from a parent that we had pinned, when that spawned.
 */
static const struct cpumask *fsocket_allowed(struct fsocket_claims *claims,
					     int want)
{
	struct fsocket_claim *claim;

	if (want != FSOCKET_CPU_AS_PARENT || current->nr_cpus_allowed != 1)
		return &current->cpus_mask;
	list_for_each_entry(claim, &claims->list, in_file) {
		if (claim->pinned && claim->owner != current->files &&
		    cpumask_test_cpu(claim->local->cpu, &current->cpus_mask))
			return &claim->allowed;
	}
	return &current->cpus_mask;
}

/*
 * The CPU of @allowed for a worker that asks for @want; see
 * FSOCKET_IOC_SPAWN_LISTEN.
 */
static int fsocket_choose_cpu(const struct cpumask *allowed, int want)
{
	enum fsocket_spawn_mode mode = fsocket_spawn_mode();
	int cpu, best = -EINVAL;

	if (mode == FSOCKET_SPAWN_OFF) {
		fsocket_log(FSOCKET_ERR, "disabled: enable_listen_spawn=0\n");
		return -EPERM;
	}
	if (mode == FSOCKET_SPAWN_PINNED && current->nr_cpus_allowed != 1) {
		fsocket_log(FSOCKET_ERR,
			    "enable_listen_spawn=1: pin the worker to one CPU first\n");
		return -EPERM;
	}
	if (want >= 0) {
		if (want >= nr_cpu_ids || !cpu_active(want) ||
		    !cpumask_test_cpu(want, allowed)) {
			fsocket_log(FSOCKET_ERR,
				    "CPU %d is not online or not allowed to the worker\n",
				    want);
			return -EINVAL;
		}
		return want;
	}
	for_each_cpu_and(cpu, allowed, cpu_active_mask) {
		if (best < 0 || per_cpu(fsocket_cpu_claims, cpu) <
				per_cpu(fsocket_cpu_claims, best))
			best = cpu;
	}
	return best;
}

static struct fsocket_local *fsocket_local_get(struct fsocket_listener *l, int cpu)
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

static struct fsocket_claim *fsocket_claim_find(struct fsocket_listener *l)
{
	struct fsocket_claim *claim;

	list_for_each_entry(claim, &l->claims, in_listener) {
		if (claim->owner == current->files && claim->worker == current)
			return claim;
	}
	return NULL;
}

/*
 * Programs of 2014 spawn first and pin themselves then: a worker that does so
 * takes its claim along, before it waits on the local listener that it left.
 */
static void fsocket_follow_pin(struct fsocket_listener *l)
{
	int cpu = raw_smp_processor_id();
	struct fsocket_local *here = READ_ONCE(l->locals[cpu]);
	struct fsocket_claim *claim;

	if (current->nr_cpus_allowed != 1 || list_empty(&l->claims) ||
	    (here && READ_ONCE(here->worker) == current))
		return;
	mutex_lock(&fsocket_mutex);
	claim = fsocket_claim_find(l);
	if (claim && claim->local->cpu != cpu) {
		here = fsocket_local_get(l, cpu);
		if (!IS_ERR(here)) {
			fsocket_claim_leave(claim);
			fsocket_claim_enter(claim, here);
		}
	}
	mutex_unlock(&fsocket_mutex);
}

static int fsocket_spawn(struct fsocket_claims *claims,
			 struct fsocket_listener *l,
			 const struct cpumask *allowed, int cpu)
{
	struct fsocket_claim *claim, *old = fsocket_claim_find(l);
	struct fsocket_local *local;
	int ret;

	claim = kzalloc(sizeof(*claim), GFP_KERNEL_ACCOUNT);
	if (!claim)
		return -ENOMEM;
	local = fsocket_local_get(l, cpu);
	if (IS_ERR(local)) {
		ret = PTR_ERR(local);
		goto err_free;
	}
	if (current->nr_cpus_allowed != 1 ||
	    !cpumask_test_cpu(cpu, &current->cpus_mask)) {
		cpumask_copy(&claim->allowed, allowed);
		claim->pinned = true;
		ret = fsocket_sched_setaffinity(0, cpumask_of(cpu));
		if (ret)
			goto err_park;
	}

	claim->owner = current->files;
	claim->worker = current;
	claim->pid = get_task_pid(current, PIDTYPE_PID);
	list_add(&claim->in_listener, &l->claims);
	list_add(&claim->in_file, &claims->list);
	fsocket_claim_enter(claim, local);
	if (old)
		fsocket_claim_drop(old);
	/* That of @old was this one's too. */
	WRITE_ONCE(local->worker, current);
	fsocket_log(FSOCKET_INFO, "port %d: local listener on CPU %d\n",
		    inet_sk(l->sock->sk)->inet_num, cpu);
	return 0;

err_park:
	if (!local->claims)
		fsocket_local_park(local);
err_free:
	kfree(claim);
	return ret;
}

int fsocket_listen_spawn(struct fsocket_claims *claims, struct socket *sock,
			 int want)
{
	const struct cpumask *allowed;
	struct fsocket_listener *l;
	int cpu, ret;

	mutex_lock(&fsocket_mutex);
	allowed = fsocket_allowed(claims, want);
	cpu = fsocket_choose_cpu(allowed, want);
	if (cpu < 0) {
		ret = cpu;
		goto out;
	}
	l = fsocket_adopt(sock);
	if (IS_ERR(l)) {
		ret = PTR_ERR(l);
		goto out;
	}
	ret = fsocket_spawn(claims, l, allowed, cpu);
out:
	mutex_unlock(&fsocket_mutex);
	return ret;
}

static void fsocket_retire_if(struct fsocket_claims *claims,
			      const struct socket *sock, fl_owner_t owner,
			      const struct task_struct *worker)
{
	struct fsocket_claim *claim, *next;

	mutex_lock(&fsocket_mutex);
	list_for_each_entry_safe(claim, next, &claims->list, in_file) {
		if ((!sock || claim->local->listener->sock == sock) &&
		    (!owner || claim->owner == owner) &&
		    (!worker || claim->worker == worker))
			fsocket_claim_drop(claim);
	}
	mutex_unlock(&fsocket_mutex);
}

void fsocket_listen_retire(struct fsocket_claims *claims, struct socket *sock)
{
	fsocket_retire_if(claims, sock, current->files, current);
}

void fsocket_listen_retire_all(struct fsocket_claims *claims,
			       const struct socket *sock, fl_owner_t owner)
{
	fsocket_retire_if(claims, sock, owner, NULL);
}

static void *fsocket_seq_start(struct seq_file *seq, loff_t *pos)
{
	mutex_lock(&fsocket_mutex);
	return seq_list_start_head(&fsocket_listeners, *pos);
}

static void *fsocket_seq_next(struct seq_file *seq, void *v, loff_t *pos)
{
	return seq_list_next(v, &fsocket_listeners, pos);
}

static void fsocket_seq_stop(struct seq_file *seq, void *v)
{
	mutex_unlock(&fsocket_mutex);
}

/* A row about @sock, the shared listener of @l or a local one, and @worker. */
static void fsocket_seq_row(struct seq_file *seq, const struct fsocket_listener *l,
			    const struct socket *sock, int cpu, bool attached,
			    struct pid *worker)
{
	const struct sock *shared = l->sock->sk, *sk = sock->sk;
	pid_t nr = 0;

	/* The number of one that has ended may be another's by now. */
	rcu_read_lock();
	if (worker && pid_task(worker, PIDTYPE_PID))
		nr = pid_nr_ns(worker, proc_pid_ns(file_inode(seq->file)->i_sb));
	rcu_read_unlock();

	seq_printf(seq, "%lu %u ", SOCK_INODE(l->sock)->i_ino,
		   READ_ONCE(inet_sk(shared)->inet_num));
#if IS_ENABLED(CONFIG_IPV6)
	if (shared->sk_family == AF_INET6)
		seq_printf(seq, "6 %pI6c", &shared->sk_v6_rcv_saddr);
	else
#endif
		seq_printf(seq, "4 %pI4", &shared->sk_rcv_saddr);
	seq_printf(seq, " %d %d %d %u %u\n", cpu, attached, nr,
		   READ_ONCE(sk->sk_ack_backlog),
		   READ_ONCE(sk->sk_max_ack_backlog));
}

static int fsocket_seq_show(struct seq_file *seq, void *v)
{
	struct fsocket_listener *l = list_entry(v, struct fsocket_listener, in_all);
	struct fsocket_claim *claim;
	int cpu;

	if (v == &fsocket_listeners) {
		seq_puts(seq, "inode port family address cpu attached worker queued limit\n");
		return 0;
	}
	if (!net_eq(sock_net(l->sock->sk), seq_file_net(seq)))
		return 0;

	fsocket_seq_row(seq, l, l->sock, -1,
			inet_sk_state_load(l->sock->sk) == TCP_LISTEN, NULL);
	list_for_each_entry(claim, &l->claims, in_listener)
		fsocket_seq_row(seq, l, claim->local->sock, claim->local->cpu,
				claim->local->attached, claim->pid);
	for_each_possible_cpu(cpu) {
		if (l->locals[cpu] && !l->locals[cpu]->claims)
			fsocket_seq_row(seq, l, l->locals[cpu]->sock, cpu,
					l->locals[cpu]->attached, NULL);
	}
	return 0;
}

const struct seq_operations fsocket_listen_seq_ops = {
	.start = fsocket_seq_start,
	.next = fsocket_seq_next,
	.stop = fsocket_seq_stop,
	.show = fsocket_seq_show,
};

/*
 * No SYN is handled on an offline CPU, but one handled on a CPU without local
 * listener may be given to any; the worker meanwhile runs elsewhere.
 */
static int fsocket_cpu_offline(unsigned int cpu)
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

	fsocket_sched_setaffinity = fsocket_resolve("sched_setaffinity");
	if (!fsocket_sched_setaffinity) {
		pr_err("this kernel's sched_setaffinity() cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	ret = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN,
					"net/fastsocket:offline", NULL,
					fsocket_cpu_offline);
	if (ret < 0)
		return ret;
	fsocket_cpuhp_state = ret;
	return 0;
}

void fsocket_listen_exit(void)
{
	cpuhp_remove_state_nocalls(fsocket_cpuhp_state);
}
