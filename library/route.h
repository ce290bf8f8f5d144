/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The memory in which the processes of a server keep who waits for one of its listeners: see
 * route.c. fsocketctl looks for it among the shared memory of processes, and reads it there: the
 * kernel does not tell a group that the library has made from one of the program's own.
 */
#ifndef FSOCKET_ROUTE_H
#define FSOCKET_ROUTE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

/* Increased whenever this layout changes. */
#define ROUTE_MAGIC	0xf50c2b9e47d80001

#define GROUP_MEMBERS	128
#define GROUP_CLAIMS	256
#define GROUP_CPUS	1024

/*
 * A worker ends its wait after this time at the latest, if FSOCKET_STEAL_AFTER_MS says
 * nothing else, and looks after the queues of others. The other times are multiples of it.
 */
#define LATE_MS		10
/* A worker that waits looks up this often, so that others see that it is alive. */
#define LOOK(r)		(10 * (r)->late)
/* A worker that is at work, and so will accept by itself, gets this much time to do so. */
#define BUSY(r)		(10 * (r)->late)
/* A worker that has not looked up for this long may be dead: others look after its queue. */
#define SILENT(r)	(30 * (r)->late)
/*
 * A worker that was late or silent for this long, whether it is stopped or gets no CPU, is
 * sent no connections, and all others look after its queue, also those that have work of
 * their own.
 */
#define STALE(r)	(100 * (r)->late)

/* One worker that waits for a listener. Others read it only now and then. */
struct claim {
	_Alignas(64) atomic_uint owner;	/* 0: free; the same number does not come again */
	atomic_int pid, tid;		/* in its PID namespace */
	atomic_int cpu, member;		/* -1: none yet */
	atomic_uchar ready;		/* connections may be sent to its member */
	atomic_uchar waiting;
	atomic_long stamp;		/* when it began or ended to wait, or looked up */
	/*
	 * What workers here have accepted since the start: from the member, the listener, and
	 * other members. Only the worker writes.
	 */
	atomic_ulong own, shared, others;
};

/* The CPU time that another worker has last read of this one. */
struct sample {
	atomic_uint owner;
	atomic_long at, cpu;
};

/*
 * The memory that says where connections of one listener go. All processes that have the
 * listener share it, since the process that has made it has forked them.
 */
struct route {
	unsigned long magic;		/* whether a reader knows this layout */
	int count;			/* of sockets */
	ino_t inode;			/* of the listener */
	ino_t sockets[GROUP_MEMBERS];	/* of the members */
	pthread_mutex_t lock;
	_Alignas(64) atomic_uint generation;	/* changes with every worker that comes or goes */
	atomic_int listening;			/* number of members that listen */
	atomic_int end;				/* claims behind have never been used */
	atomic_bool broken;			/* the listener has been shut down */
	atomic_int backlog;
	int late;				/* see LATE_MS */
	unsigned char index[GROUP_MEMBERS];	/* in the kernel's group; 0: it does not listen */
	unsigned int last_owner;
	struct claim claims[GROUP_CLAIMS];
	struct sample samples[GROUP_CLAIMS];	/* apart from these, which are the workers' own */
};

#endif
