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

#include "fds.h"

#define MAX_INSTANCES	8
/* The kernel's poll() has room for 30 on its stack, one of which is the instance. */
#define MAX_OWED	29
/* Saved calls are reported to the module in this number. */
#define REPORT		128

/* epoll.c says what they mean. */
enum state { UNKNOWN, FREE, FLOATING, REGISTERED, LEAVING };

struct wish {
	uint64_t data;
	uint32_t events;
};

struct shadow {
	struct wish wish, kernels;
	/* Of the instance, if neither UNKNOWN nor FREE. */
	uint32_t instance;
	/* Changes with everything that the number fd stands for. */
	uint32_t serial;
	/* Position in fsocket_owed[], or -1. */
	int8_t slot;
	uint8_t waits;
	uint8_t state;
	/* By a signal handler that interrupted us. */
	volatile uint8_t closed;
};

struct fsocket_instance {
	int fd;
	uint32_t id;
};

#pragma GCC visibility push(hidden)

extern struct shadow fsocket_shadows[FSOCKET_MAX_FD];
extern int fsocket_shadow_highest;

/* The epoll instances that only this process knows. ids are never used again. */
extern struct fsocket_instance fsocket_instances[MAX_INSTANCES];
extern int fsocket_instance_count;

/*
 * What floats, leaves, or was modified. An entry may be of no consequence any
 * more, as a later wish took it back.
 */
extern int fsocket_owed[MAX_OWED];
extern int fsocket_owed_count;

/* Calls saved, less those made instead; not yet reported. */
extern int fsocket_saved_calls;
void fsocket_shadow_report(void);

/* The C library's epoll_ctl(). */
int fsocket_shadow_call(int epfd, int op, int fd, struct epoll_event *event);

/* Puts fd into fsocket_owed[], or returns false if there is no room; and takes it out. */
bool fsocket_shadow_owe(int fd);
void fsocket_shadow_strike(struct shadow *s);

/* Makes the kernel know what the program has asked for: of fd; of all sockets in an instance. */
void fsocket_shadow_settle(int fd);
void fsocket_shadow_settle_instance(uint32_t id);

/* Does the same, and then leaves to the kernel: fd; all sockets of an instance; all sockets. */
void fsocket_shadow_forget(int fd);
void fsocket_shadow_forget_instance(uint32_t id);
void fsocket_shadow_forget_all(void);

/* Does what the kernel does with a socket whose last reference is closed. */
void fsocket_shadow_drop(int fd);
/* Does what the kernel does with an instance: its sockets are registered nowhere after this. */
void fsocket_shadow_close_instance(uint32_t id);

/* The stack address of the function that changes the notes; 0 if none does. */
extern volatile uintptr_t fsocket_shadow_busy;
extern volatile sig_atomic_t fsocket_shadow_interrupted;
bool fsocket_shadow_begin_again(uintptr_t here);
void fsocket_shadow_end_interrupted(void);
/* A function, perhaps a signal handler, is about to leave by longjmp(). */
void fsocket_shadow_jump(void);

/*
 * The notes are changed only between begin() and end(). begin() returns false in a signal
 * handler that has interrupted such a change.
 */
static inline bool fsocket_shadow_begin(void)
{
	uintptr_t here;

	asm volatile("mov %%rsp, %0" : "=r"(here));
	if (fsocket_shadow_busy)
		return fsocket_shadow_begin_again(here);
	fsocket_shadow_busy = here;
	atomic_signal_fence(memory_order_seq_cst);
	return true;
}

static inline void fsocket_shadow_end(void)
{
	if (fsocket_shadow_interrupted)
		fsocket_shadow_end_interrupted();
	if (fsocket_saved_calls >= REPORT)
		fsocket_shadow_report();
	atomic_signal_fence(memory_order_seq_cst);
	fsocket_shadow_busy = 0;
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

#pragma GCC visibility pop

#endif
