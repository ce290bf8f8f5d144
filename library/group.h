/* SPDX-License-Identifier: GPL-2.0-only */
/* The group of each listener. */
#ifndef FSOCKET_GROUP_H
#define FSOCKET_GROUP_H

#include "backend.h"

#pragma GCC visibility push(hidden)

/* Returns the group of the listener fd, or NULL if it has none. */
struct group *fsocket_group_of(int fd);

#pragma GCC visibility pop

#endif
