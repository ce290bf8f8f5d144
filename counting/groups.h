/* SPDX-License-Identifier: GPL-2.0-only */
/* To which part of the kernel a chain of calls belongs. */
#ifndef COUNTING_GROUPS_H
#define COUNTING_GROUPS_H

#include <stddef.h>

enum group {
	GROUP_LISTENER,
	GROUP_EPOLL,
	GROUP_EHASH,
	GROUP_BIND, /* The port's bind bucket, and TIME_WAIT. */
	GROUP_MEMORY,
	GROUP_ROUTES,
	GROUP_SCHEDULER, /* What the load wakes. */
	GROUP_REST,
	GROUP_BACKGROUND, /* Ticks, balancing of load, RCU: time, not the load. */
	GROUPS,
};

extern const char *const group_names[GROUPS];

/* The innermost function comes first. */
enum group group_of(const char *const *chain, size_t n);

#endif
