/* SPDX-License-Identifier: GPL-2.0-only */
/* The group of each listener. */
#ifndef FSOCKET_GROUP_H
#define FSOCKET_GROUP_H

#include "backend.h"

#pragma GCC visibility push(hidden)

/* Returns the group of the listener fd, or NULL if it has none. */
struct group *fsocket_group_of(int fd);
/* The same for a thread whose numbers are its own. */
struct group *fsocket_group_of_socket(int fd);
/* The same by the listener's inode. */
struct group *fsocket_group_find(ino_t socket);
/*
 * Returns whether conn came to a listener that has a group, or had one until it was closed, and that the
 * program has not set SO_REUSEPORT of.
 */
bool fsocket_group_reached(int conn);
/* options.c: the members no longer do what the listener does: see fsocket_route_stop(). */
void fsocket_group_stop(struct group *g);

#pragma GCC visibility pop

#endif
