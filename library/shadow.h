/* SPDX-License-Identifier: GPL-2.0-only */
/* The notes of enable_fast_epoll: see shadow.c. */
#ifndef FSOCKET_SHADOW_H
#define FSOCKET_SHADOW_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "device.h"
#include "fds.h"

#define MAX_INSTANCES	8
/* The kernel's poll() has room for 30 on its stack, one of which is the instance. */
#define MAX_OWED	29
/* A wait costs a floating socket about a twentieth of ADD and close. */
#define FLOAT_WAITS	8
/* Saved calls are reported to the module in this number. */
#define REPORT		128

/* epoll.c defines their meaning. */
enum state { UNKNOWN, FREE, FLOATING, REGISTERED, LEAVING };

/*
 * A shadow says what the program has registered, and how much of it the kernel knows. fd and
 * events are the arguments for poll(). The size is a power of two, so that an index needs no
 * multiplication.
 */
struct shadow {
	int fd;
	uint16_t events, kernel_events;
	uint64_t data, kernel_data;
	/* The instance, if the state is neither UNKNOWN nor FREE. */
	uint32_t instance;
	/* Position in fsocket_owed[], or -1. */
	int8_t slot;
	/*
	 * The number of waits for which it may still float, or stay in fsocket_owed[]
	 * for nothing.
	 */
	uint8_t waits;
	union {
		struct {
			uint8_t state;
			/* Set by a signal handler that interrupted a change. */
			volatile uint8_t closed;
		};
		/* Both members, stored by one instruction. */
		uint16_t state_and_closed;
	};
};
_Static_assert(sizeof(struct shadow) == 32, "an index is shifted");

struct fsocket_instance {
	int fd;
	uint32_t id;
};

#pragma GCC visibility push(hidden)

extern struct shadow fsocket_shadows[FSOCKET_MAX_FD];
extern int fsocket_shadow_highest;

/*
 * The epoll instances that only this process knows. ids are never used again; after the
 * last instance they are 0.
 */
extern struct fsocket_instance fsocket_instances[MAX_INSTANCES];
extern int fsocket_instance_count;
void fsocket_shadow_clear_instances(void);
/* No instance has ever had a higher number. */
extern int fsocket_instance_highest;

/*
 * The sockets that float, leave, or were modified. An entry may have lost its purpose,
 * since a later wish took it back or the socket is closed. It stays for some waits,
 * since the next socket is likely to get the same number.
 */
extern struct shadow *fsocket_owed[MAX_OWED];
extern int fsocket_owed_count;

/* The number of saved calls less those made instead; not yet reported. */
extern int fsocket_saved_calls;
void fsocket_shadow_report(void);

/* The C library's epoll_ctl(). */
int fsocket_shadow_call(int epfd, int op, int fd, struct epoll_event *event);

/*
 * Puts s into fsocket_owed[], or returns false if there is no room; the second function
 * removes it.
 */
bool fsocket_shadow_owe(struct shadow *s);
static inline void fsocket_shadow_strike(struct shadow *s)
{
	struct shadow *last;

	if (s->slot < 0)
		return;
	last = fsocket_owed[fsocket_owed_count - 1];
	fsocket_owed[s->slot] = last;
	last->slot = s->slot;
	s->slot = -1;
	/*
	 * Decrement last, so that the count is not 0 if a signal handler jumps away while a
	 * call is owed.
	 */
	atomic_signal_fence(memory_order_seq_cst);
	fsocket_owed_count--;
}

/*
 * Makes the system calls for what the program has registered: for fd; for all sockets
 * of an instance.
 */
void fsocket_shadow_settle(struct shadow *s);
void fsocket_shadow_settle_instance(uint32_t id);

/* Does the same, and then leaves to the kernel: fd; all sockets of an instance; all sockets. */
void fsocket_shadow_forget(int fd);
void fsocket_shadow_forget_instance(uint32_t id);
void fsocket_shadow_forget_all(void);

/* Does what the kernel does with a socket when its last reference is closed. */
void fsocket_shadow_drop(int fd);
/* Does what the kernel does with an instance: afterwards its sockets are registered nowhere. */
void fsocket_shadow_close_instance(uint32_t id);

/* The number of threads besides the first, and GIVEN_UP. */
#define GIVEN_UP	(1 << 30)
extern atomic_int fsocket_shadow_obstacles;

/* Returns whether any socket or instance is followed. */
static inline bool fsocket_shadow_following(void)
{
	return fsocket_features->fast_epoll &&
	       !atomic_load_explicit(&fsocket_shadow_obstacles, memory_order_relaxed);
}

/* Incremented whenever a descriptor in the notes may begin to stand for another file. */
extern unsigned int fsocket_shadow_changes;

/*
 * The stack address of the function that changes the notes; 0 if none does. A signal
 * handler that needed to change them meanwhile adds INTERRUPTED.
 */
#define INTERRUPTED	1
extern volatile uintptr_t fsocket_shadow_busy;
bool fsocket_shadow_begin_again(uintptr_t here);
void fsocket_shadow_end_interrupted(void);
/* Called before a function, perhaps a signal handler, leaves by longjmp(). */
void fsocket_shadow_jump(void);

static inline uintptr_t fsocket_shadow_here(void)
{
	uintptr_t here;

	asm volatile("mov %%rsp, %0" : "=r"(here));
	return here;
}

/*
 * The notes are changed only between begin() and end(). begin() returns false in a signal
 * handler that has interrupted such a change.
 */
static inline bool fsocket_shadow_begin(void)
{
	uintptr_t here = fsocket_shadow_here();

	if (fsocket_shadow_busy)
		return fsocket_shadow_begin_again(here);
	fsocket_shadow_busy = here;
	fsocket_shadow_changes++;
	atomic_signal_fence(memory_order_seq_cst);
	return true;
}

/* Begins a change of the notes. fsocket_shadow_busy has to be 0, and only FREE sockets may change. */
static inline void fsocket_shadow_begin_quickly(uintptr_t here)
{
	fsocket_shadow_busy = here;
	atomic_signal_fence(memory_order_seq_cst);
}

/*
 * Ends the change, or returns false if a signal handler has interrupted it. One instruction
 * finds out and releases the notes, since a handler may run at any time. (Threads do
 * not matter here.)
 */
static inline bool fsocket_shadow_end_quickly(uintptr_t here)
{
	bool alone;

	asm volatile("cmpxchg %3, %1"
		     : "+a"(here), "+m"(fsocket_shadow_busy), "=@ccz"(alone)
		     : "r"((uintptr_t)0) : "memory");
	return alone;
}

static inline void fsocket_shadow_end(void)
{
	if (fsocket_saved_calls >= REPORT)
		fsocket_shadow_report();
	while (RARE(!fsocket_shadow_end_quickly(fsocket_shadow_busy & ~INTERRUPTED)))
		fsocket_shadow_end_interrupted();
}

static inline struct shadow *fsocket_shadow_of(int fd)
{
	return fd >= 0 && fd <= fsocket_shadow_highest && fsocket_shadows[fd].state != UNKNOWN ?
	       &fsocket_shadows[fd] : NULL;
}

static inline uint32_t fsocket_shadow_find_instance(int epfd)
{
	for (int i = 0; i < fsocket_instance_count; i++)
		if (fsocket_instances[i].fd == epfd)
			return fsocket_instances[i].id;
	return 0;
}

static inline int fsocket_shadow_instance_fd(uint32_t id)
{
	for (int i = 0; i < fsocket_instance_count; i++)
		if (fsocket_instances[i].id == id)
			return fsocket_instances[i].fd;
	return -1;
}

/*
 * New sockets up to this number are followed at once. -1 while there is an obstacle, or
 * no instance; it may keep its value when fast_epoll is switched off.
 */
extern int fsocket_shadow_limit;

/* fd, below FSOCKET_MAX_FD, is a new socket of which there is no other reference. Returns fd. */
int fsocket_shadow_grow(int fd);
static inline int fsocket_shadow_new_socket(int fd)
{
	if (RARE(fd > fsocket_shadow_limit || fsocket_shadow_busy))
		return fsocket_shadow_grow(fd);
	/*
	 * Once the state is stored, a signal handler finds a new socket, and until then
	 * the previous one: no change can be interrupted.
	 */
	fsocket_shadow_changes++;
	fsocket_shadows[fd].state_and_closed = FREE;
	return fd;
}

/* Returns whether fd is an instance, or a signal handler has interrupted a change. */
static inline bool fsocket_shadow_special(int fd)
{
	return (fd <= fsocket_instance_highest && fsocket_shadow_find_instance(fd)) ||
	       fsocket_shadow_busy;
}

/*
 * Returns whether a socket, below FSOCKET_MAX_FD, is left to the kernel since no call
 * is owed: it is UNKNOWN, or is added with unusual flags.
 */
static inline bool fsocket_shadow_leave(int fd, bool odd)
{
	struct shadow *s = &fsocket_shadows[fd];

	if (fsocket_shadow_special(fd) || s->state > FREE || (s->state == FREE && !odd))
		return false;
	if (s->state == FREE)
		s->state = UNKNOWN;
	return true;
}

/* With these flags, the answer of epoll_wait() is a function of the socket's state: see epoll.c. */
#define PLAIN_EVENTS	(EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDNORM | \
			 EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG | EPOLLRDHUP)

/* The highest address that an event on the main stack can have. */
extern uintptr_t fsocket_shadow_stack;

/*
 * Returns whether event can surely be read, as it can in a caller's frame on the main
 * stack. No mapping is nearer to the top of that stack than 128 MB (mmap_base() in the
 * kernel).
 */
static inline bool fsocket_shadow_on_stack(const struct epoll_event *event, uintptr_t here)
{
	uintptr_t left = fsocket_shadow_stack - here;

	return left < 128 << 20 && (uintptr_t)event - here < left;
}

/*
 * The usual case of EPOLL_CTL_ADD, in two parts so that neither of them has to call a
 * function. Returns whether the call may be such a case; if so, a change of the notes
 * has begun.
 */
static inline bool fsocket_shadow_add_begin(int fd, const struct epoll_event *event,
					    uintptr_t here)
{
	/* While there is an obstacle, no socket of an instance is FREE. */
	if (!fsocket_features->fast_epoll || fsocket_shadow_special(fd) ||
	    !fsocket_shadow_on_stack(event, here) || event->events & ~PLAIN_EVENTS)
		return false;
	fsocket_shadow_begin_quickly(here);
	return true;
}

/* Returns whether s floats now. */
static inline bool fsocket_shadow_add(int epfd, struct shadow *s, const struct epoll_event *event)
{
	uint32_t id = fsocket_instances[0].id;

	if (s->state != FREE || fsocket_instances[0].fd != epfd || !id)
		return false;
	if (s->slot < 0) {
		if (fsocket_owed_count == MAX_OWED)
			return false;
		s->slot = fsocket_owed_count;
		fsocket_owed[fsocket_owed_count++] = s;
	}
	fsocket_saved_calls++;
	s->data = event->data.u64;
	s->events = event->events;
	s->instance = id;
	s->waits = FLOAT_WAITS;
	/* If a signal handler jumps away, what floats is complete, and the next wait sees it. */
	atomic_signal_fence(memory_order_seq_cst);
	s->state = FLOATING;
	return true;
}

/*
 * Does what the kernel does with a socket when its last reference is closed, if the
 * function above returns false. Only the state matters, so no change can be interrupted
 * here either.
 */
static inline void fsocket_shadow_close_socket(int fd)
{
	struct shadow *s = &fsocket_shadows[fd];

	if (s->state == UNKNOWN)
		return;
	s->state = UNKNOWN;
	fsocket_shadow_changes++;
}

#pragma GCC visibility pop

#endif
