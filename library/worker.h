/* SPDX-License-Identifier: GPL-2.0-only */
/* The state of the calling thread that worker.c, which waits, and accept.c share. */
#ifndef FSOCKET_WORKER_H
#define FSOCKET_WORKER_H

#include <fcntl.h>
#include <stdatomic.h>

#include "backend.h"
#include "real.h"

/* The most listeners of one instance. */
#define MAX_MINE	16

/* A listener in an epoll instance. */
struct watch {
	int epfd, fd;
	struct group *_Atomic group;	/* NULL if this entry is free */
	struct epoll_event event;	/* as the program has registered the listener */
	bool wanted;			/* it waits for connections */
	bool ours;			/* the member is in the instance, too */
	bool all;			/* so are all others: see fsocket_place_all() */
	bool crowd;			/* several threads wait here */
	const void *thread;
	struct claim *_Atomic claim;
	unsigned int owner, generation;
	bool active;			/* another worker exists, or did a short time ago */
	long alone_since;		/* time since which there is none; 0: there is one */
	unsigned int accepts;		/* of the thread, when it looked at its member last */
	unsigned char unheeded;		/* looks since then at which connections waited there */
	long retry;			/* there was no room for a claim: none is tried before */
	int left;			/* 1 + the member that it has left with connections; 0: none */
	bool mute;			/* it accepts by calls that the library does not see */
};

/* The state that the calling thread found for the instance where it waited last. */
struct worker {
	int epfd, count;
	unsigned int version;
	struct watch *watches[MAX_MINE];
	int late;		/* of the first one's route, as it was then: see late_of() */
	unsigned int accepts;
	long looked;
	bool claims;		/* one of the watches has a claim */
	/* The thread has found that connections wait in members other than these. */
	bool overdue, stolen, timely[GROUP_MEMBERS];
};

#pragma GCC visibility push(hidden)

extern __thread struct worker fsocket_mine __attribute__((tls_model("initial-exec")));
/*
 * hold.c: from hold() to let_go() only this thread changes watches. hold() returns false if it
 * does so already, in a function that a signal handler has interrupted.
 */
bool fsocket_worker_hold(void);
/* epoll_pwait() with mask, while all signals are blocked: see fsocket_signals_unblock(). */
int fsocket_worker_blocked(int epfd, struct epoll_event *events, int maxevents, int timeout,
			   const sigset_t *mask, sigset_t *own);
void fsocket_worker_let_go(void);
void fsocket_worker_held_in_child(void);
/* Returns whether the thread's state is still true. */
bool fsocket_worker_known(void);
/* The program's epoll_ctl() of the listener fd, which has the group g, has succeeded. */
void fsocket_worker_ctl(struct group *g, int epfd, int op, int fd,
			const struct epoll_event *event);
/* This process is about to lose the group's member, or all of them if it is -1. */
void fsocket_worker_forsake(struct group *g, int member);
/* place.c: puts the member of w into its instance, or takes it out, if it has one. */
void fsocket_place_enter(struct watch *w);
void fsocket_place_leave(struct watch *w);
/*
 * Decides whether w looks up at the others. One that is left alone keeps looking up for a while, since
 * connections that were sent to the members of other workers still arrive there.
 */
void fsocket_place_look(struct watch *w, bool there);
/*
 * Puts all members into the instance of w, which is left alone and does not look up any more, or takes
 * the others out again. A handshake at a member of a worker that has gone may end much later: with
 * TCP_DEFER_ACCEPT, when the client sends.
 */
void fsocket_place_all(struct watch *w, bool all);
/* Gives w, which has a claim, a CPU and a member, to which connections may be sent from then on. */
void fsocket_place_take(struct watch *w);
/* Has this thread take from the member that w has left, until nothing waits there. */
void fsocket_place_recall(struct watch *w, bool *timely);
/* Moves this worker, with all its claims, if it shares its CPU while another one has too few workers. */
void fsocket_place_spread(void);

#pragma GCC visibility pop

static inline int member_fd(const struct watch *w)
{
	const struct group *g = w->group;
	const struct claim *c = w->claim;
	int member = g && c ? member_of(c) : -1;

	return member >= 0 && c->owner == w->owner ? descriptor_of(g, member) : -1;
}

/* If another worker has taken the connection, accept() would wait. */
static inline bool nonblocking(int fd)
{
	long flags = RAW3(SYS_fcntl, fd, F_GETFL, 0);

	return flags >= 0 && flags & O_NONBLOCK;
}

#endif
