// SPDX-License-Identifier: GPL-2.0-only
/* Options that are set on a listening socket hold for its local listeners, too. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <net/inet_sock.h>
#include <net/sock.h>

#include "inherit.h"
#include "listener.h"
#include "log.h"
#include "ops.h"

/* Gives the local listeners the options of @l; NULL, or what they cannot carry. */
static const char *fsocket_listener_inherit(struct fsocket_listener *l)
{
	const char *obstacle = fsocket_inherit_obstacle(l->sock->sk);
	struct fsocket_local *local;
	int cpu;

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
		fsocket_listener_refresh(l);
	fsocket_listener_put(l);
	return ret;
}

void fsocket_options_set_ops(struct proto_ops *ops)
{
	ops->setsockopt = fsocket_listener_setsockopt;
}
