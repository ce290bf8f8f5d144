/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_BIND_H
#define FSOCKET_BIND_H

struct fsocket_bind;
struct sock;
struct socket;

/* Whether @sk is bound to no particular address. */
bool fsocket_bound_to_any(const struct sock *sk);

/* Whether the TCP socket @sk is bound by private buckets: a local listener that has not ended. */
bool fsocket_bound_privately(const struct sock *sk);

/*
 * Returns a socket that keeps the port of the listener @shared in the kernel's
 * bind table as @shared does, for as long as connections of the port may be in
 * private buckets; or an ERR_PTR(). fsocket_bind_guard_release() ends it.
 *
 * @reuseport: the program itself has set SO_REUSEPORT. If it has not, the guard
 * keeps SO_REUSEPORT sockets off the port, whatever @shared looks like meanwhile.
 */
struct socket *fsocket_bind_guard(struct sock *shared, bool reuseport);

void fsocket_bind_guard_release(struct socket *guard);

/*
 * Gives @guard the options of @shared by which bind() of other programs decides. Called
 * again when these change; @reuseport is that of fsocket_bind_guard().
 */
void fsocket_bind_guard_set(struct sock *guard, const struct sock *shared, bool reuseport);

/*
 * Binds @local, an unbound socket with the address of @guard that no other code knows,
 * to the port of @guard, by bind buckets of its own. Returns the argument for the other
 * functions, or an ERR_PTR().
 */
struct fsocket_bind *fsocket_bind_private(struct sock *local, const struct sock *guard);

/*
 * Ends @bind of @local, which no longer listens: all sockets bound through the private
 * buckets move into the kernel's, beside @guard, and @local lets go of the port. May
 * sleep.
 */
void fsocket_bind_settle(struct fsocket_bind *bind, struct sock *local,
			 const struct sock *guard);

#endif
