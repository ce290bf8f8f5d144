/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_OPS_H
#define FSOCKET_OPS_H

#include <linux/types.h>

struct proto_ops;
struct socket;

/* Whether the module has taken charge of @sock. */
bool fsocket_listen_is_ours(const struct socket *sock);

/*
 * The ops of the sockets that accept() takes from @sock; NULL if that is not a
 * TCP socket.
 */
const struct proto_ops *fsocket_listen_plain_ops(const struct socket *sock);

/* Makes some of the functions of @ops ours. */
typedef void (*fsocket_ops_setter)(struct proto_ops *ops);

/* @setters ends with NULL, and is used until fsocket_ops_exit(). */
int fsocket_ops_init(const fsocket_ops_setter *setters);
/* Nobody runs one of our functions any more by way of a socket's ops, or will. */
void fsocket_ops_exit(void);
/* The ops that @sock would have without us. */
const struct proto_ops *fsocket_orig_ops(const struct socket *sock);
/* Gives @sock, which is locked, our ops; under fsocket_listeners_mutex. */
int fsocket_ops_put(struct socket *sock);
/* Gives @sock, which is locked, or nobody else's yet, its original ones. */
void fsocket_ops_take_back(struct socket *sock);
/* Releases @sock, which has our ops but no listener. */
int fsocket_ops_release_copy(struct socket *sock);

#endif
