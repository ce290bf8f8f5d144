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
 * Gives the new, unbound socket @to what the listener @from is bound to, and its
 * cgroup. Once, and with the lock of @from: the kernel's tables of bound sockets are
 * by address.
 */
void fsocket_inherit_address(struct sock *to, const struct sock *from);

/*
 * Gives the local listener @to every option of the listener @from that an
 * accepted connection inherits from its listener. Called for a new local
 * listener, and again when an option of @from changes.
 */
int fsocket_inherit(struct sock *to, const struct sock *from);

#endif
