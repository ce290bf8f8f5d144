// SPDX-License-Identifier: GPL-2.0-only
/*
 * Private bind buckets.
 *
 * TCP puts every connection of a port, and after it the TIME_WAIT socket, into the
 * lists of an inet_bind_bucket (by port) and of an inet_bind2_bucket (by port and
 * address). So all CPUs write to the same list heads, and to the neighbours of the
 * sockets that they add and remove. When every CPU has a listener, a third of the cache
 * lines that move between CPUs per connection are these.
 *
 * Here each local listener gets both buckets for itself. Its children inherit them by
 * the stock __inet_inherit_port(), and leave them by the stock inet_put_port(),
 * inet_twsk_hashdance() and inet_twsk_bind_unhash(). All of these find the buckets
 * through the socket, and change their lists under the lock of the port's bhash chain.
 * The private buckets are in no chain, so no lookup by port finds them, and removing
 * them from a chain only writes to the buckets themselves. They come from the kernel's
 * caches, and the kernel frees them with their last socket.
 *
 * The sockets in the chains decide what bind() of other programs may do. While the
 * shared listener is open, it is in the chain and conflicts with everything that its
 * children would conflict with. A guard socket is beside it, since the shared listener
 * has SO_REUSEPORT set while it has local listeners. When a local listener ends, its
 * children and TIME_WAIT sockets move to the buckets in the chains.
 *
 * The address of a child can differ from that of the listener: the listener is bound to
 * any address, or TPROXY or a BPF program has sent the child there.
 * __inet_inherit_port() gives such a child an inet_bind2_bucket that it finds in the
 * chain, not the private one, and since 6.8 an inet_bind_bucket lives no longer than
 * the inet_bind2_buckets that belong to it. So the module gives the private bucket the
 * child's address right before: a copy of icsk_af_ops has our syn_recv_sock(), as that
 * of net/smc has. The kernel compares the address in a bucket only when a socket joins
 * it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/net.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/inet_timewait_sock.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "bind.h"
#include "compat.h"
#include "inherit.h"

/* The number of sockets that are moved while the bhash lock is held once. */
#define FSOCKET_SETTLE_BATCH	64

struct fsocket_bind {
	/* icsk_af_ops of the local listener points to this copy. */
	struct inet_connection_sock_af_ops ops;
	const struct inet_connection_sock_af_ops *orig;
	/*
	 * The private bucket. NULL once no child may join any more and those that have
	 * joined are moved; under @lock.
	 */
	struct inet_bind2_bucket *tb2;
	/* Held from giving @tb2 a child's address until the child has joined it. */
	spinlock_t lock;
	struct rcu_head rcu;
};

bool fsocket_bound_to_any(const struct sock *sk)
{
#if IS_ENABLED(CONFIG_IPV6)
	if (sk->sk_family == AF_INET6)
		return ipv6_addr_any(&sk->sk_v6_rcv_saddr);
#endif
	return !sk->sk_rcv_saddr;
}

static struct inet_bind_hashbucket *fsocket_bind_head(const struct sock *sk)
{
	struct inet_hashinfo *table = tcp_or_dccp_get_hashinfo(sk);

	return &table->bhash[inet_bhashfn(sock_net(sk), inet_sk(sk)->inet_num,
					  table->bhash_size)];
}

static struct sock *fsocket_bind_syn_recv_sock(FSOCKET_SYN_RECV_PARAMS)
{
	const struct inet_connection_sock_af_ops *ops = READ_ONCE(inet_csk(sk)->icsk_af_ops);
	struct sock *child = NULL;
	struct fsocket_bind *bind;

	/* The local listener has let go of its port meanwhile, so no child can have that port. */
	if (ops->syn_recv_sock != fsocket_bind_syn_recv_sock)
		return FSOCKET_SYN_RECV_BY(ops);

	bind = container_of(ops, struct fsocket_bind, ops);
	spin_lock_bh(&bind->lock);
	if (bind->tb2) {
		fsocket_bind2_set_address(bind->tb2, req_to_sk(req), sk->sk_family);
		child = FSOCKET_SYN_RECV_BY(bind->orig);
	} else {
		/*
		 * The local listener has ended: drop the connection, as
		 * tcp_v4_syn_recv_sock() does when it has no memory.
		 */
		dst_release(dst);
		tcp_listendrop(sk);
	}
	spin_unlock_bh(&bind->lock);
	/* IPv4 children of IPv6 listeners already have other icsk_af_ops. */
	if (child && inet_csk(child)->icsk_af_ops == &bind->ops)
		inet_csk(child)->icsk_af_ops = bind->orig;
	return child;
}

bool fsocket_bound_privately(const struct sock *sk)
{
	return READ_ONCE(inet_csk(sk)->icsk_af_ops)->syn_recv_sock == fsocket_bind_syn_recv_sock;
}

/* Puts @local, to which nothing else refers yet, into new buckets like those of @guard. */
static struct inet_bind2_bucket *fsocket_bind_buckets(struct sock *local,
						      const struct sock *guard)
{
	struct inet_hashinfo *table = tcp_or_dccp_get_hashinfo(local);
	struct inet_bind_bucket *tb;
	struct inet_bind2_bucket *tb2;

	tb = kmem_cache_zalloc(table->bind_bucket_cachep, GFP_KERNEL);
	if (!tb)
		return NULL;
	tb2 = kmem_cache_zalloc(table->bind2_bucket_cachep, GFP_KERNEL);
	if (!tb2) {
		kmem_cache_free(table->bind_bucket_cachep, tb);
		return NULL;
	}
	write_pnet(&tb->ib_net, sock_net(local));
	tb->l3mdev = inet_csk(guard)->icsk_bind_hash->l3mdev;
	tb->port = inet_sk(guard)->inet_num;
	/* __hlist_del() writes through pprev. */
	tb->node.pprev = &tb->node.next;
	tb2->node.pprev = &tb2->node.next;
	fsocket_bind2_init(tb2, tb, local);

	inet_sk(local)->inet_num = tb->port;
	fsocket_bind_add(local, tb, tb2);
	return tb2;
}

struct fsocket_bind *fsocket_bind_private(struct sock *local, const struct sock *guard)
{
	struct inet_connection_sock *icsk = inet_csk(local);
	struct fsocket_bind *bind;

	bind = kzalloc(sizeof(*bind), GFP_KERNEL_ACCOUNT);
	if (!bind)
		return ERR_PTR(-ENOMEM);
	bind->tb2 = fsocket_bind_buckets(local, guard);
	if (!bind->tb2) {
		kfree(bind);
		return ERR_PTR(-ENOMEM);
	}
	spin_lock_init(&bind->lock);
	bind->orig = icsk->icsk_af_ops;
	bind->ops = *bind->orig;
	bind->ops.syn_recv_sock = fsocket_bind_syn_recv_sock;
	icsk->icsk_af_ops = &bind->ops;
	return bind;
}

/*
 * Moves some sockets from the buckets of @local to those in the chains. Returns
 * whether there are more. @spare is a new bucket, used if one is missing.
 */
static bool fsocket_bind_settle_some(struct sock *local, const struct sock *guard,
				     struct inet_bind2_bucket **spare)
{
	struct inet_hashinfo *table = tcp_or_dccp_get_hashinfo(local);
	struct inet_bind_bucket *tb = inet_csk(guard)->icsk_bind_hash;
	struct inet_bind_hashbucket *head = fsocket_bind_head(guard), *head2;
	struct inet_bind2_bucket *tb2;
	int left = FSOCKET_SETTLE_BATCH;
	struct hlist_node *next;
	struct sock *sk;

	spin_lock_bh(&head->lock);
	hlist_for_each_entry_safe(sk, next, fsocket_bind_owners(local), sk_bind_node) {
		if (sk == local)
			continue;
		head2 = inet_bhashfn_portaddr(table, sk, sock_net(sk), tb->port);
		spin_lock(&head2->lock);
		hlist_for_each_entry(tb2, &head2->chain, node) {
			if (fsocket_bind2_match(tb2, tb, sk))
				break;
		}
		if (!tb2 && *spare) {
			tb2 = *spare;
			*spare = NULL;
			fsocket_bind2_init(tb2, tb, sk);
			hlist_add_head(&tb2->node, &head2->chain);
		}
		if (tb2)
			fsocket_bind_move(sk, tb, tb2);
		spin_unlock(&head2->lock);
		if (!tb2 || !--left)
			break;
	}
	spin_unlock_bh(&head->lock);
	return sk;
}

void fsocket_bind_settle(struct fsocket_bind *bind, struct sock *local,
			 const struct sock *guard)
{
	struct kmem_cache *cache = tcp_or_dccp_get_hashinfo(local)->bind2_bucket_cachep;
	struct inet_bind2_bucket *spare = NULL;
	bool more;

	/* No child may join from now on: one that joined later would stay in the private bucket. */
	spin_lock_bh(&bind->lock);
	bind->tb2 = NULL;
	spin_unlock_bh(&bind->lock);
	do {
		/*
		 * The allocation must not fail: a connection that stayed behind would
		 * not keep other sockets off its port.
		 */
		if (!spare)
			spare = kmem_cache_zalloc(cache, GFP_KERNEL | __GFP_NOFAIL);
		more = fsocket_bind_settle_some(local, guard, &spare);
		cond_resched();
	} while (more);
	if (spare)
		kmem_cache_free(cache, spare);
	inet_put_port(local);
	WRITE_ONCE(inet_csk(local)->icsk_af_ops, bind->orig);
	/* A syn_recv_sock() that began earlier may still use @bind. */
	kfree_rcu(bind, rcu);
}

/* Binds @sk as the locked listener @shared is bound. */
static int fsocket_bind_as(struct sock *sk, struct sock *shared)
{
	int ret;

	/* The listener may have been closed, and its socket bound elsewhere, meanwhile. */
	if (shared->sk_state != TCP_LISTEN)
		return -EINVAL;
	fsocket_inherit_address(sk, shared);
	inet_sk(sk)->inet_num = inet_sk(shared)->inet_num;
	local_bh_disable();
	ret = __inet_inherit_port(shared, sk);
	local_bh_enable();
	if (ret)
		inet_sk(sk)->inet_num = 0;
	return ret;
}

void fsocket_bind_guard_release(struct socket *guard)
{
	/* The state in which it was made, and in which the kernel expects it here. */
	WRITE_ONCE(guard->sk->sk_state, TCP_CLOSE);
	sock_release(guard);
}

void fsocket_bind_guard_set(struct sock *guard, const struct sock *shared, bool reuseport)
{
	guard->sk_reuseport = reuseport;
	/*
	 * bind() refuses the port of a listener in spite of SO_REUSEADDR; the guard does
	 * not listen, so it must not have sk_reuse set.
	 */
	guard->sk_reuse = reuseport ? shared->sk_reuse : SK_NO_REUSE;
	WRITE_ONCE(guard->sk_bound_dev_if, READ_ONCE(shared->sk_bound_dev_if));
}

struct socket *fsocket_bind_guard(struct sock *shared, bool reuseport)
{
	struct socket *sock;
	struct sock *sk;
	int ret;

	ret = __sock_create(sock_net(shared), shared->sk_family, SOCK_STREAM,
			    IPPROTO_TCP, &sock, 0);
	if (ret)
		return ERR_PTR(ret);
	sk = sock->sk;
	ret = fsocket_inherit(sk, shared);
	if (ret)
		goto err_release;
	SOCK_INODE(sock)->i_uid = sock_i_uid(shared);
	fsocket_bind_guard_set(sk, shared, reuseport);

	lock_sock(shared);
	ret = fsocket_bind_as(sk, shared);
	release_sock(shared);
	if (ret)
		goto err_release;
	fsocket_hide_bound(sk);
	return sock;

err_release:
	sock_release(sock);
	return ERR_PTR(ret);
}
