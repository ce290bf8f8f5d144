/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds the part of the kernel to which a chain of calls belongs. */
#ifndef COUNTING_GROUPS_H
#define COUNTING_GROUPS_H

#include <stddef.h>

enum group {
	GROUP_LISTENER,
	GROUP_EPOLL,
	GROUP_EHASH,
	GROUP_BIND, /* the port's bind bucket, and TIME_WAIT */
	GROUP_MEMORY,
	GROUP_ROUTES,
	GROUP_SCHEDULER, /* waking the threads that the load needs */
	GROUP_REST,
	GROUP_BACKGROUND, /* ticks, load balancing, RCU: these depend on time */
	GROUPS,
};

extern const char *const group_names[GROUPS];

/* chain[0] is the innermost function. */
enum group group_of(const char *const *chain, size_t n);

#endif
