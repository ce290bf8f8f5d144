/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_OPS_H
#define FSOCKET_OPS_H

#include <linux/types.h>

struct proto_ops;
struct socket;

/* Returns whether the module has taken charge of @sock. */
bool fsocket_listen_is_ours(const struct socket *sock);

/*
 * Returns the ops of the sockets that accept() takes from @sock, or NULL if that is not
 * a TCP socket.
 */
const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock);

/* Replaces some of the functions of @ops. */
typedef void (*fsocket_ops_setter)(struct proto_ops *ops);

/* Initialises both structures by all @setters, which end with NULL. */
int fsocket_ops_init(const fsocket_ops_setter *setters);
/* On return no task runs one of our functions through a socket's ops, and none will. */
void fsocket_ops_exit(void);
/* Returns the ops that @sock would have without this module. */
const struct proto_ops *fsocket_orig_ops(const struct socket *sock);
/*
 * Gives our ops to @sock, which is locked; called under fsocket_listeners_mutex. Returns
 * -EOPNOTSUPP if @sock does not have the kernel's own ops for TCP.
 */
int fsocket_ops_put(struct socket *sock);
/* Gives its original ops back to @sock, which is locked or not yet visible to others. */
void fsocket_ops_take_back(struct socket *sock);
/* Releases @sock, which has our ops but no listener. */
int fsocket_ops_release_copy(struct socket *sock);

#endif
