// SPDX-License-Identifier: GPL-2.0-only
/*
 * A worker's member is in the epoll instance beside the listener, with the same data, so
 * one wait may return an event of each. The program has registered one descriptor and
 * may count on one event: it may free what the data points to when it handles the first.
 *
 * Events are told apart by their data alone. Those of other descriptors that have the
 * listener's data become one with it, too; a program cannot tell them apart either, and
 * looks at all of them.
 */
#include <stdint.h>

#include "worker.h"

static RARELY int merge(struct epoll_event *first, struct epoll_event *again, struct epoll_event *end)
{
	while (again < end) {
		if (again->data.u64 != first->data.u64) {
			again++;
			continue;
		}
		first->events |= again->events;
		/* The order of events is nowhere promised. */
		*again = *--end;
	}
	return end - first;
}

int fsocket_worker_merge(int epfd, struct epoll_event *events, int count)
{
	const struct worker *mine = &fsocket_mine;

	for (int i = 0; i < mine->count && mine->epfd == epfd; i++) {
		uint64_t data = mine->watches[i]->event.data.u64;
		struct epoll_event *first = NULL, *end = events + count;

		/* Every connection of a worker passes here. */
		for (struct epoll_event *e = events; e < end; e++) {
			if (e->data.u64 != data)
				continue;
			if (RARE(first)) {
				count = first - events + merge(first, e, end);
				break;
			}
			first = e;
		}
	}
	return count;
}
