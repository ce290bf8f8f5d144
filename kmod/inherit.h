/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_INHERIT_H
#define FSOCKET_INHERIT_H

struct sock;

/*
 * Names the option of the listener @sk that a local listener cannot carry, or
 * returns NULL when there is none.
 */
const char *fsocket_inherit_obstacle(const struct sock *sk);

/*
 * Copies to the new, unbound socket @to the address and the interface to which the
 * listener @from is bound, and its cgroup. Called once, before @to is bound, since the
 * kernel's tables of bound sockets are hashed by address. The caller holds the lock of
 * @from.
 */
void fsocket_inherit_address(struct sock *to, const struct sock *from);

/*
 * Copies the option TCP_QUICKACK. fsocket_inherit() does so, too, but when @to begins to
 * listen, inet_csk_listen_start() clears it.
 */
void fsocket_inherit_quickack(struct sock *to, const struct sock *from);

/*
 * Gives @to the cookie of the listener @from. A lookup by address finds either of them,
 * and ss -K, which has the address from the kernel's list, also names the cookie. Returns
 * the former cookie of @to.
 */
u64 fsocket_inherit_cookie(struct sock *to, struct sock *from);

/*
 * Copies to the local listener @to every option of the listener @from that a
 * connection inherits from its listener. Called for each new local listener, and for
 * all of them when an option of @from changes.
 */
int fsocket_inherit(struct sock *to, const struct sock *from);

#endif
