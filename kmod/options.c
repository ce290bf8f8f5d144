// SPDX-License-Identifier: GPL-2.0-only
/* Options that are set on a listening socket hold for its local listeners, too. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <net/inet_sock.h>
#include <net/sock.h>

#include "bind.h"
#include "inherit.h"
#include "listener.h"
#include "log.h"
#include "ops.h"

/*
 * The program has set SO_REUSEPORT to @on. A socket that has had local listeners keeps
 * it set until the end of its listener. Called under the listener's lock.
 */
static void fsocket_listener_reuseport(struct fsocket_listener *l, bool on)
{
	struct sock *sk = l->sock->sk;

	lock_sock(sk);
	l->reuseport = on;
	if (l->reuseport_ours)
		sk->sk_reuseport = 1;
	else if (!fsocket_listen_is_ours(l->sock))
		/* fsocket_listener_restore() ran meanwhile, and has undone it. */
		sk->sk_reuseport = on;
	release_sock(sk);
}

/*
 * Gives the local listeners the options of @l. Returns the name of an option that they cannot
 * have; NULL if there is none.
 */
static const char *fsocket_listener_inherit(struct fsocket_listener *l)
{
	const char *obstacle = fsocket_inherit_obstacle(l->sock->sk);
	struct fsocket_local *local;
	int cpu;

	/* The program has cleared it, of which 6.1 does not tell. */
	if (l->reuseport_ours && !l->sock->sk->sk_reuseport)
		fsocket_listener_reuseport(l, false);
	if (l->guard)
		fsocket_bind_guard_set(l->guard->sk, l->sock->sk, l->reuseport);
	for_each_possible_cpu(cpu) {
		local = l->locals[cpu];
		if (!obstacle && local && local->sock &&
		    fsocket_inherit(local->sock->sk, l->sock->sk))
			obstacle = "its congestion control";
	}
	return obstacle;
}

bool fsocket_listener_refresh(struct fsocket_listener *l)
{
	const char *obstacle = NULL;

	mutex_lock(&l->lock);
	if (!l->ended)
		obstacle = fsocket_listener_inherit(l);
	mutex_unlock(&l->lock);
	if (!obstacle)
		return true;
	fsocket_log(FSOCKET_WARNING,
		    "port %d: local listeners given up, they cannot carry %s\n",
		    inet_sk(l->sock->sk)->inet_num, obstacle);
	fsocket_listener_end(l);
	return false;
}

/*
 * @sock has our ops and no listener. Some options make the kernel copy the ops of a
 * socket to where all sockets find them (kTLS), or exchange them, so such an option
 * must not meet ours.
 */
static void fsocket_copy_take_back(struct socket *sock)
{
	lock_sock(sock->sk);
	/* The socket may have become a listener since. */
	if (!fsocket_listener_find(sock))
		fsocket_ops_take_back(sock);
	release_sock(sock->sk);
}

static int fsocket_orig_setsockopt(struct socket *sock, const struct fsocket_listener *l,
				   int level, int optname, sockptr_t optval,
				   unsigned int optlen)
{
	if (!l)
		fsocket_copy_take_back(sock);
	if (level == SOL_SOCKET)
		return sock_setsockopt(sock, level, optname, optval, optlen);
	return fsocket_orig_ops(sock)->setsockopt(sock, level, optname, optval, optlen);
}

/* Called after an option of @l was set. */
static void fsocket_option_follow(struct fsocket_listener *l, int level, int optname,
				  sockptr_t optval)
{
	int on;

	if (level == SOL_SOCKET && optname == SO_REUSEPORT &&
	    !copy_from_sockptr(&on, optval, sizeof(on))) {
		mutex_lock(&l->lock);
		fsocket_listener_reuseport(l, on);
		mutex_unlock(&l->lock);
	}
	fsocket_listener_refresh(l);
}

/* An option set on the shared listener holds for the local ones too. */
static int fsocket_listener_setsockopt(struct socket *sock, int level, int optname,
				       sockptr_t optval, unsigned int optlen)
{
	struct fsocket_listener *l = fsocket_listener_get(sock);
	int ret;

	ret = fsocket_passing(fsocket_orig_setsockopt(sock, l, level, optname, optval, optlen));
	if (!l)
		return ret;
	if (!ret)
		fsocket_option_follow(l, level, optname, optval);
	fsocket_listener_put(l);
	return ret;
}

void fsocket_options_set_ops(struct proto_ops *ops)
{
	ops->setsockopt = fsocket_listener_setsockopt;
}
