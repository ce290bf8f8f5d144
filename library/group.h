/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the kernel backend share: see group.c. */
#ifndef FSOCKET_GROUP_H
#define FSOCKET_GROUP_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernel.h"

#define GROUP_MEMBERS	128
#define GROUP_CLAIMS	256
#define GROUP_CPUS	1024

/*
 * A worker leaves its wait for longer than this, if FSOCKET_STEAL_AFTER_MS says nothing else:
 * who has nothing to do looks after its queue. The other times are multiples of it.
 */
#define LATE_MS		10
/* One that waits looks up so often, so that it is seen to be alive. */
#define LOOK(r)		(10 * (r)->late)
/* It has not looked up: it is dead or stopped, and others look after its queue. */
#define SILENT(r)	(30 * (r)->late)
/*
 * No connection is sent to a worker that was late or silent for so long, and those with work of
 * their own look after its queue, too.
 */
#define STALE(r)	(100 * (r)->late)

/* One worker that waits for a listener. Others read it only now and then. */
struct claim {
	_Alignas(64) atomic_uint owner;	/* 0: free; the same number does not come again */
	atomic_int pid;
	atomic_int cpu, member;		/* -1: none yet */
	atomic_bool ready;		/* connections may be sent to its member */
	atomic_bool waiting;
	atomic_long stamp;		/* when it began or ended to wait, or looked up */
};

/*
 * Where connections of one listener go. All processes that have the listener share it,
 * as they have been forked by the one that has made it.
 */
struct route {
	pthread_mutex_t lock;
	_Alignas(64) atomic_uint generation;	/* changes with who there is */
	atomic_int listening;			/* members that do */
	atomic_int end;				/* claims behind have never been used */
	atomic_bool broken;			/* the listener has been shut down */
	atomic_int backlog;
	int late;				/* see LATE_MS */
	unsigned char index[GROUP_MEMBERS];	/* in the kernel's group; 0: it does not listen */
	unsigned int last_owner;
	struct claim claims[GROUP_CLAIMS];
};

/* A listener, and the sockets beside it. */
struct group {
	ino_t inode;		/* of the listener; 0: there is none */
	int count;
	int members[GROUP_MEMBERS];
	struct route *route;
	bool reuseport;		/* as the program has set it since */
};

#pragma GCC visibility push(hidden)

long fsocket_now_ms(void);

/* group.c */
struct group *fsocket_group_of(int fd);
/* inherit.c: gives member the options of the listener fd; false: that cannot be done. */
bool fsocket_group_inherit(int member, int fd, int family);

/* route.c */
struct route *fsocket_route_new(void);
/* A claim for the calling thread; NULL: there is no room. */
struct claim *fsocket_route_claim(struct group *g, unsigned int *owner);
void fsocket_route_release(struct group *g, struct claim *c, unsigned int owner);
/* Workers that there are. */
int fsocket_route_live(const struct route *r);
/* Chooses a CPU among those allowed, and a member, which listens from then on; or false. */
bool fsocket_route_choose(struct group *g, struct claim *c, const cpu_set_t *allowed);
/* The worker can be sent connections. */
void fsocket_route_ready(struct group *g, struct claim *c);
/* Takes from those that are stale; looks only now and then. */
void fsocket_route_tend(struct group *g);
/*
 * Marks the members that are not ours to look after: mine, and those of workers that are
 * late by less than so many milliseconds. Whether a worker is out of its wait now.
 */
bool fsocket_route_timely(const struct route *r, const struct claim *mine, int late,
			  bool *timely);

/* worker.c: this process is about to lose the group's members; or one of them. */
void fsocket_worker_forsake(struct group *g, int member);

/* pin.c */
/* Pins this thread to the CPU, unless it may run on one only. */
void fsocket_pin(int cpu);
/* The CPUs that the program lets this thread run on. */
void fsocket_pin_allowed(cpu_set_t *set);
/* Pins it again, if that has been lifted meanwhile. */
void fsocket_pin_again(void);
void fsocket_pin_end(void);

#pragma GCC visibility pop

#endif
