/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory in which the processes of a server store the workers that wait for one of
 * its listeners: see route.c. fsocketctl looks for this memory among the shared memory
 * of processes and reads it there, since the kernel does not show whether the library
 * or the program has made a group.
 */
#ifndef FSOCKET_ROUTE_H
#define FSOCKET_ROUTE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

/* Increased whenever this layout changes. */
#define ROUTE_MAGIC	0xf50c2b9e47d80005

#define GROUP_MEMBERS	128
#define GROUP_CLAIMS	256
#define GROUP_CPUS	1024

/*
 * A worker ends its wait after this time at the latest, unless FSOCKET_STEAL_AFTER_MS
 * is set, and looks after the queues of others. The other times are multiples of it.
 */
#define LATE_MS		10
/* A worker that waits looks up this often, so that others see that it is alive. */
#define LOOK_EVERY(late)	(10 * (late))
#define LOOK(r)		LOOK_EVERY(late_of(r))
/* A worker that is at work, and so will accept by itself, gets this much time to do so. */
#define BUSY(r)		(10 * late_of(r))
/* A worker that has not looked up for this long may be dead: others look after its queue. */
#define SILENT(r)	(30 * late_of(r))
/*
 * A worker that was late or silent for this long, whether it is stopped or gets no CPU,
 * is sent no connections. All others look after its queue, also those that have work of
 * their own.
 */
#define STALE(r)	(100 * late_of(r))

/* One worker that waits for a listener. Other workers read it only from time to time. */
struct claim {
	_Alignas(64) atomic_uint owner;	/* 0 if free; a number is never used again */
	atomic_int pid, tid;		/* in its PID namespace */
	atomic_int cpu, member;		/* -1 if none yet */
	atomic_uchar ready;		/* connections may be sent to its member */
	atomic_uchar waiting;
	atomic_uchar looks;		/* it has been ready, and looks up at the others since */
	atomic_uchar stopped;		/* the kernel has said so */
	atomic_long stamp;		/* time of the last beginning or end of a wait, or look */
	/*
	 * The connections that workers here have accepted since the start: from the
	 * member, the listener, and other members. Only the worker writes these.
	 */
	atomic_ulong own, shared, others;
	atomic_ulong started;		/* see fsocket_proc_started(); 0: unknown */
};

/* Others note here a worker's CPU time, as they last read it, and when they asked for its state. */
struct sample {
	atomic_uint owner;
	atomic_long at, cpu;
	atomic_long asked;
};

/*
 * The memory that says where connections of one listener go. All processes that have
 * the listener share it, since they have inherited it from the process that made it.
 */
struct route {
	unsigned long magic;		/* identifies this layout for readers */
	int count;			/* of sockets */
	ino_t inode;			/* of the listener */
	ino_t sockets[GROUP_MEMBERS];	/* of the members */
	_Alignas(64) atomic_uint generation;	/* changes when a worker comes or goes */
	atomic_int listening;			/* number of members that listen */
	atomic_int end;				/* claims from here on were never used */
	atomic_bool broken;			/* the listener has been shut down */
	atomic_bool seen;			/* see fsocket_route_seen() */
	atomic_int backlog;
	atomic_bool reuseport;			/* as the program has set it since */
	int late;				/* see LATE_MS and late_of() */
	unsigned char index[GROUP_MEMBERS];	/* in the kernel's group; 0: it does not listen */
	unsigned int last_owner;
	struct claim claims[GROUP_CLAIMS];
	struct sample samples[GROUP_CLAIMS];	/* not in the claims, which workers write */
};

/*
 * Processes of other users may write to this memory, too: a server's workers may have given up
 * rights that its first process still has. So indices are read once and checked.
 */
static inline int claims_of(const struct route *r)
{
	int end = atomic_load(&r->end);

	return end < 0 || end > GROUP_CLAIMS ? GROUP_CLAIMS : end;
}

/* Returns whether FSOCKET_STEAL_AFTER_MS may have this value. */
static inline bool late_allowed(int late)
{
	return late >= 1 && late <= 10000;
}

static inline int late_of(const struct route *r)
{
	int late = __atomic_load_n(&r->late, __ATOMIC_RELAXED);

	return late_allowed(late) ? late : LATE_MS;
}

/* Returns a negative number if it has none. */
static inline int member_of(const struct claim *c)
{
	int member = atomic_load(&c->member);

	return member < GROUP_MEMBERS ? member : -1;
}

#endif
