// SPDX-License-Identifier: GPL-2.0-only
/*
 * The proto_ops of listeners: one structure for IPv4, and one for IPv6. Both are the
 * same for all listeners, and work with any socket. do_accept() and kernel_accept()
 * copy the listener's ops to the new socket; such a socket has no listener of ours, and
 * the original ops serve it.
 *
 * Such a copy holds no reference to the module, since the kernel owns TCP's ops: a
 * reference would be a cache line to which all CPUs write for each connection. But
 * do_accept() sleeps between reading the listener's ops and calling them; a task work
 * releases a new socket that it could not accept still later; and kernel_accept()
 * leaves the copy in the new socket, as do_accept() does on 6.1 if the listener ends
 * meanwhile. The module may be unloaded before. So neither structure is part of the
 * module: they are allocated when it is loaded, and stay for ever once they have been
 * in use, 500 bytes for each load. When the module is unloaded they become copies of
 * the original ones. A socket that has such a copy is not adopted when the module is
 * loaded again: the original ops are those of a socket that the module makes itself.
 *
 * close() of such a socket may wait for its peer for any time (SO_LINGER). The module must
 * not wait with it, so the connection then moves to a socket with the original ops first.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/build_bug.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/kmemleak.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <net/inet_common.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "ops.h"

/* The ops of IPv4 and of IPv6. */
static struct fsocket_family {
	struct proto_ops *ops;
	/* The kernel's own ops; NULL if it has none with which the module works. */
	const struct proto_ops *orig;
	/* A socket has had our ops; protected by fsocket_listeners_mutex. */
	bool used;
} fsocket_families[2] __read_mostly;

/* The number of sockets that our ops are releasing while the module is unloaded. */
static atomic_t fsocket_late_releases;

static struct fsocket_family *fsocket_family_by(const struct proto_ops *ops)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(fsocket_families); i++) {
		if (ops == fsocket_families[i].ops)
			return &fsocket_families[i];
	}
	return NULL;
}

bool fsocket_listen_is_ours(const struct socket *sock)
{
	return fsocket_family_by(READ_ONCE(sock->ops));
}

const struct proto_ops *fsocket_orig_ops(const struct socket *sock)
{
	/* Read them once, since another task may adopt the socket now. */
	const struct proto_ops *ops = READ_ONCE(sock->ops);
	const struct fsocket_family *family = fsocket_family_by(ops);

	return family ? family->orig : ops;
}

const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock)
{
	const struct proto_ops *ops = fsocket_orig_ops(sock);

	return ops->accept == inet_accept && sock->type == SOCK_STREAM &&
	       sk_is_tcp(sock->sk) ? ops : NULL;
}

int fsocket_ops_put(struct socket *sock)
{
	struct fsocket_family *family =
		&fsocket_families[sock->sk->sk_family == AF_INET6];

	/* The ops may be those of an earlier load of the module, see above. */
	if (!family->orig || fsocket_orig_ops(sock) != family->orig)
		return -EOPNOTSUPP;
	family->used = true;
	WRITE_ONCE(sock->ops, family->ops);
	return 0;
}

void fsocket_ops_take_back(struct socket *sock)
{
	WRITE_ONCE(sock->ops, fsocket_orig_ops(sock));
}

/* Returns whether releasing @sock waits for its peer: the program closes it with SO_LINGER. */
static bool fsocket_ops_lingers(const struct socket *sock)
{
	const struct sock *sk = sock->sk;

	return sk && sock->file && sock_flag(sk, SOCK_LINGER) && READ_ONCE(sk->sk_lingertime) &&
	       !(current->flags & PF_EXITING);
}

/*
 * Moves the connection of @sock to a new file, and closes that. current still waits as
 * long as SO_LINGER says before it returns to the program, but in functions of the
 * kernel only. Returns false if there is no memory for a file.
 */
static bool fsocket_ops_hand_over(struct socket *sock, const struct proto_ops *orig)
{
	struct socket *heir = sock_alloc();
	struct file *file;

	if (!heir)
		return false;
	file = sock_alloc_file(heir, 0, NULL);
	if (IS_ERR(file))
		return false;
	heir->type = sock->type;
	heir->state = sock->state;
	__module_get(orig->owner);
	heir->ops = orig;
	/* sock_graft() takes the connection's user from there. */
	SOCK_INODE(heir)->i_uid = SOCK_INODE(sock)->i_uid;
	sock_graft(sock->sk, heir);
	sock->sk = NULL;
	fput(file);
	return true;
}

static int fsocket_ops_release_now(struct socket *sock, const struct proto_ops *orig)
{
	struct sock *sk = sock->sk;

	if (fsocket_ops_lingers(sock)) {
		if (fsocket_ops_hand_over(sock, orig))
			return 0;
		/* The kernel ends the connection all the same, but current does not wait. */
		lock_sock(sk);
		sock_reset_flag(sk, SOCK_LINGER);
		release_sock(sk);
	}
	return orig->release(sock);
}

int fsocket_ops_release_copy(struct socket *sock)
{
	const struct proto_ops *orig = fsocket_orig_ops(sock);
	bool held = try_module_get(THIS_MODULE);
	int ret;

	if (!held)
		atomic_inc(&fsocket_late_releases);
	ret = fsocket_ops_release_now(sock, orig);
	if (held)
		module_put(THIS_MODULE);
	else
		atomic_dec(&fsocket_late_releases);
	return ret;
}

/* Finds the kernel's own ops by a new socket, since those of IPv6 are not exported. */
static int fsocket_family_init(struct fsocket_family *family, int number,
			       const fsocket_ops_setter *setters)
{
	const struct proto_ops *orig;
	struct socket *sock;
	int ret, i;

	ret = sock_create_kern(&init_net, number, SOCK_STREAM, IPPROTO_TCP, &sock);
	/* The kernel may have been booted with ipv6.disable=1. */
	if (ret == -EAFNOSUPPORT)
		return 0;
	if (ret)
		return ret;
	orig = sock->ops;
	sock_release(sock);
	if (orig->accept != inet_accept || orig->poll != tcp_poll)
		return 0;
	*family->ops = *orig;
	for (i = 0; setters[i]; i++)
		setters[i](family->ops);
	family->orig = orig;
	return 0;
}

int fsocket_ops_init(const fsocket_ops_setter *setters)
{
	struct proto_ops *ops;
	int ret;

	ops = kcalloc(ARRAY_SIZE(fsocket_families), sizeof(*ops), GFP_KERNEL);
	if (!ops)
		return -ENOMEM;
	fsocket_families[0].ops = &ops[0];
	fsocket_families[1].ops = &ops[1];
	ret = fsocket_family_init(&fsocket_families[0], AF_INET, setters);
	if (!ret)
		ret = fsocket_family_init(&fsocket_families[1], AF_INET6, setters);
	if (ret)
		kfree(ops);
	return ret;
}

/* Copy word by word, since another CPU may be about to call one of the functions. */
static void fsocket_ops_become(struct proto_ops *ops, const struct proto_ops *orig)
{
	unsigned long *to = (unsigned long *)ops;
	const unsigned long *from = (const unsigned long *)orig;
	size_t i;

	BUILD_BUG_ON(sizeof(*ops) % sizeof(*to));
	for (i = 0; i < sizeof(*ops) / sizeof(*to); i++)
		WRITE_ONCE(to[i], from[i]);
}

void fsocket_ops_exit(void)
{
	struct proto_ops *ops = fsocket_families[0].ops;
	bool used = false;
	int i;

	for (i = 0; i < ARRAY_SIZE(fsocket_families); i++) {
		if (!fsocket_families[i].used)
			continue;
		fsocket_ops_become(fsocket_families[i].ops, fsocket_families[i].orig);
		used = true;
	}
	if (!used) {
		kfree(ops);
		return;
	}
	kmemleak_not_leak(ops);
	/* None of our functions sleeps without a reference to the module or being counted. */
	synchronize_rcu_tasks();
	while (atomic_read(&fsocket_late_releases))
		msleep(20);
}
