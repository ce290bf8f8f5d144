/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declarations that the files of the kernel backend share, from the lowest level up:
 * members.c, pin.c and route.c, adopt.c, place.c and worker.c, group.c; accept.c and keep.c use
 * all of them.
 */
#ifndef FSOCKET_BACKEND_H
#define FSOCKET_BACKEND_H

#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/types.h>

#include "kernel.h"
#include "route.h"

/* A listener, and the sockets beside it. */
struct group {
	ino_t inode;		/* of the listener; 0 if there is none */
	struct sockaddr_in6 address;	/* or sockaddr_in; a listener that is gone leaves it */
	int count;
	int members[GROUP_MEMBERS];
	struct route *route;
	int memory;		/* the descriptor of that memory; -1: it has none */
	bool anonymous;		/* no process of the server has such a descriptor */
	atomic_bool dropped;	/* a thread has begun to close it */
};

/* Other processes may write to the memory that the number is from. Returns -1 if there is none. */
static inline int descriptor_of(const struct group *g, int member)
{
	return member >= 0 && member < g->count ? g->members[member] : -1;
}

#pragma GCC visibility push(hidden)

/* procfs.c */
/* Reads the file, and ends the text with a zero byte; returns its length, or -1. */
int fsocket_proc_read(const char *path, char *text, int size);
/*
 * Reads the stat file of a thread into text, and returns what is behind the name, which may
 * contain anything: the state, then the number of the parent. NULL if there is no such thread.
 */
char *fsocket_proc_stat(int pid, int tid, char *text, int size);

/*
 * Returns when the thread of such a text has started, in ticks since the boot; 0 if that is not
 * there. No other thread of the same number has started then.
 */
unsigned long fsocket_proc_started(const char *stat);

/* members.c */
/* Closes low, and returns a high number for the same file, which belongs to the library; or -1. */
int fsocket_member_raise(int low);
/*
 * fd is about to become another file, as all numbers up to last are: returns a number for the same
 * file beyond these, or -1.
 */
int fsocket_member_move(int fd, unsigned int last);
/* Return whether the number still is the group's memory, or its member: programs close any number. */
bool fsocket_memory_there(const struct group *g);
bool fsocket_member_there(const struct group *g, int member);
/* Returns the local port of a socket, in network byte order; 0 if it has none. */
in_port_t fsocket_member_port(int fd);
/* Returns whether connections wait in a member that is not marked in except[], if that is given. */
bool fsocket_members_readable(const struct group *g, const bool *except);
/* Stores the local address of a socket, followed by zeros; false if it has none. */
bool fsocket_member_address(int fd, struct sockaddr_in6 *address);
/* Returns whether the socket is, or was, a connection of TCP, and not only bound. */
bool fsocket_member_connected(int fd);
/* Returns whether a connection to the socket may have come by the listener with that address. */
bool fsocket_member_reached(int fd, const struct sockaddr_in6 *listener);
/* Does epoll_ctl() with each member that listens. */
void fsocket_members_watch(const struct group *g, int epfd, int op,
			   const struct epoll_event *event);
/* Shuts down the members that this thread has. */
void fsocket_members_shut_down(const struct group *g);
/* Closes the members, and the memory's descriptor. */
void fsocket_members_close(struct group *g);

/* adopt.c */
/* Returns a descriptor of memory for a route, or -1. */
int fsocket_adopt_memory(void);
/*
 * Takes over the group that another program has made for the listener fd; returns false
 * if there is none, or if that is not possible.
 */
bool fsocket_adopt(struct group *g, int fd);
/*
 * Descriptors that this process had before it ran its program: the memory and the members
 * of the listener's group. fsocket_adopt() takes them rather than asking other processes.
 */
void fsocket_adopt_offer(ino_t listener, const int *numbers, int count);

/*
 * making.c: a thread makes a group, or leaves the table of descriptors; it has ended that; this is
 * a copy of a process in which another thread may have held that lock, or the one of hold.c.
 */
void fsocket_making_begin(void);
void fsocket_making_end(void);
void fsocket_making_in_copy(void);

/* imports.c: returns whether the program imports a function by which it could accept connections. */
bool fsocket_imports_accept(void);

/* group.c */
/*
 * Calls what for each group whose listener is inherited by a program that this process runs,
 * with a number of that listener.
 */
void fsocket_group_each_inherited(void (*what)(const struct group *g, int listener, void *arg),
				  void *arg);

/*
 * inherit.c: an option that cannot be read back has been set of some socket, so no listener gets
 * members from now on; whether one may.
 */
void fsocket_inherit_hidden(void);
bool fsocket_inherit_possible(void);
/* Gives member the options of the listener fd; returns false if that is not possible. */
bool fsocket_group_inherit(int member, int fd, int family);

/* route.c */
/*
 * Returns the route in the memory of the descriptor; -1: in memory that only children
 * will share.
 */
struct route *fsocket_route_new(int memory);
/*
 * Moves the memory of a new route to where that of a group is that has gone, and returns where it is
 * then. Another thread may still look at the old one, so that is never only unmapped.
 */
struct route *fsocket_route_replace(struct route *old, struct route *new);
/* Returns a claim for the calling thread, or NULL if there is no room. */
struct claim *fsocket_route_claim(struct group *g, unsigned int *owner);
void fsocket_route_release(struct group *g, struct claim *c, unsigned int owner);
/*
 * Somebody has called accept() of the listener. If the program does not import accept(), no worker
 * gets a member until then, since a program that makes the system call itself would find
 * no connection there.
 */
void fsocket_route_seen(struct route *r);
/*
 * From now on all connections get the listener itself, and workers leave their members after a while:
 * the members no longer do what the listener does for the program.
 */
void fsocket_route_stop(struct group *g);
/* Frees what the program that ran in this process before has claimed. */
void fsocket_route_start(struct group *g);
/* Returns the number of workers. */
int fsocket_route_live(const struct route *r);
/* Adds to workers[], which has GROUP_CPUS numbers, the workers on each CPU. */
void fsocket_route_count(const struct route *r, unsigned short *workers);
/* Returns the CPU among those allowed that has the fewest; -1 if none is allowed. */
int fsocket_route_fewest(const unsigned short *workers, const cpu_set_t *allowed);
/*
 * Chooses the CPU among those allowed that has the fewest workers, and a member, which listens from
 * then on; false if there is none. workers[] has those of other listeners, and gets those of this one.
 */
bool fsocket_route_choose(struct group *g, struct claim *c, const cpu_set_t *allowed,
			  unsigned short *workers);
/*
 * The worker is to choose again, and is sent no connections until then. Returns false if nothing is
 * changed.
 */
bool fsocket_route_withdraw(struct group *g, struct claim *c);
/* From now on connections may be sent to the worker. */
void fsocket_route_ready(struct group *g, struct claim *c);
/* Takes the CPUs of stale workers away; a call does so only from time to time. */
void fsocket_route_tend(struct group *g);
/*
 * Marks in timely[] the members from which this thread must not take: its own, and
 * those of workers that are late by less than this many milliseconds, or at work.
 * Returns whether a worker is out of its wait now.
 */
bool fsocket_route_timely(struct route *r, const struct claim *mine, int late,
			  bool *timely);

/* pin.c */
/* Returns the number of the machine's CPUs, at most GROUP_CPUS. */
int fsocket_cpus(void);
/*
 * Pins this thread to the CPU, unless it may run on one only. Returns false if the thread stays where
 * it was, since the CPU is offline or the cpuset does not have it any more.
 */
bool fsocket_pin(int cpu);
/* Returns the CPUs that the program lets this thread run on. */
void fsocket_pin_allowed(cpu_set_t *set);
/* Pins the thread again if its pin has been lifted meanwhile. */
void fsocket_pin_again(void);
void fsocket_pin_end(void);

#pragma GCC visibility pop

#endif
