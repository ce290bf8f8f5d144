// SPDX-License-Identifier: GPL-2.0-only
/*
 * The notes of enable_fast_epoll: what the program has registered with its epoll
 * instances, and when the library makes the kernel's calls for it. epoll.c explains
 * why.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "device.h"
#include "real.h"
#include "shadow.h"

struct shadow fsocket_shadows[FSOCKET_MAX_FD];
int fsocket_shadow_highest = -1;
struct fsocket_instance fsocket_instances[MAX_INSTANCES];
int fsocket_instance_count;
int fsocket_instance_highest = -1;
struct shadow *fsocket_owed[MAX_OWED];
int fsocket_owed_count;
int fsocket_saved_calls;
atomic_int fsocket_shadow_obstacles;
unsigned int fsocket_shadow_changes;
uintptr_t fsocket_shadow_stack;
int fsocket_shadow_limit = -1;
volatile uintptr_t fsocket_shadow_busy;

/*
 * The kernel leaves the red zone free, and saves at least this much for a handler:
 * struct rt_sigframe and the registers that XSAVE saves.
 */
#define SIGNAL_FRAME 1000

/* Set when longjmp() was called while the notes were being changed. */
static volatile bool jumped;

int fsocket_shadow_call(int epfd, int op, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	return real(epfd, op, fd, event);
}

/* Removes entries for which no call is owed any more. */
static void make_room(void)
{
	for (int i = fsocket_owed_count - 1; i >= 0; i--)
		if (fsocket_owed[i]->state <= FREE)
			fsocket_shadow_strike(fsocket_owed[i]);
}

bool fsocket_shadow_owe(struct shadow *s)
{
	if (s->slot >= 0)
		return true;
	if (fsocket_owed_count == MAX_OWED)
		make_room();
	if (fsocket_owed_count == MAX_OWED)
		return false;
	s->slot = fsocket_owed_count;
	fsocket_owed[fsocket_owed_count++] = s;
	return true;
}

static void make_call(int op, struct shadow *s)
{
	struct epoll_event event = { .events = s->events, .data.u64 = s->data };
	int saved = errno;

	fsocket_saved_calls--;
	if (!fsocket_shadow_call(fsocket_shadow_instance_fd(s->instance), op, s->fd, &event)) {
		s->state = op == EPOLL_CTL_DEL ? FREE : REGISTERED;
		s->kernel_events = s->events;
		s->kernel_data = s->data;
	} else if (errno == EBADF || op != EPOLL_CTL_ADD) {
		/* The program has closed it by a call that the library has not seen. */
		s->state = UNKNOWN;
	}
	/*
	 * Otherwise memory, or the user's limit of watches, is exhausted: the socket goes on
	 * floating.
	 */
	errno = saved;
}

/* Makes the system call for what the program has registered. */
void fsocket_shadow_settle(struct shadow *s)
{
	if (s->state == FLOATING)
		make_call(EPOLL_CTL_ADD, s);
	else if (s->state == LEAVING)
		make_call(EPOLL_CTL_DEL, s);
	else if (s->state == REGISTERED &&
		 (s->events != s->kernel_events || s->data != s->kernel_data))
		make_call(EPOLL_CTL_MOD, s);
	if (s->state != FLOATING)
		fsocket_shadow_strike(s);
}

void fsocket_shadow_settle_instance(uint32_t id)
{
	/* Go backwards, since the last entry takes the place of one that is settled. */
	for (int i = fsocket_owed_count - 1; i >= 0; i--)
		if (fsocket_owed[i]->instance == id)
			fsocket_shadow_settle(fsocket_owed[i]);
}

void fsocket_shadow_forget(int fd)
{
	fsocket_shadow_settle(&fsocket_shadows[fd]);
	if (fsocket_shadows[fd].state != FLOATING)
		fsocket_shadows[fd].state = UNKNOWN;
}

/* Does what the kernel does with a socket when its last reference is closed. */
void fsocket_shadow_drop(int fd)
{
	struct shadow *s = &fsocket_shadows[fd];

	s->state = UNKNOWN;
	s->closed = 0;
	fsocket_shadow_changes++;
}

void fsocket_shadow_clear_instances(void)
{
	fsocket_instance_count = 0;
	fsocket_shadow_limit = -1;
	for (int i = 0; i < MAX_INSTANCES; i++)
		fsocket_instances[i].id = 0;
}

RARELY int fsocket_shadow_grow(int fd)
{
	if (!fsocket_shadow_following() || !fsocket_instance_count || !fsocket_shadow_begin())
		return fd;
	/* begin() forgets all instances if a signal handler has jumped away. */
	if (!fsocket_instance_count) {
		fsocket_shadow_end();
		return fd;
	}
	for (int next = fsocket_shadow_highest + 1; next <= fd; next++) {
		fsocket_shadows[next].fd = next;
		fsocket_shadows[next].slot = -1;
		fsocket_shadow_highest = next;
	}
	fsocket_shadow_drop(fd);
	fsocket_shadows[fd].state = FREE;
	fsocket_shadow_limit = fsocket_shadow_highest;
	fsocket_shadow_end();
	return fd;
}

static void fsocket_shadow_remove_instance(uint32_t id)
{
	for (int i = 0; i < fsocket_instance_count; i++)
		if (fsocket_instances[i].id == id) {
			fsocket_instances[i] = fsocket_instances[--fsocket_instance_count];
			fsocket_instances[fsocket_instance_count].id = 0;
		}
	if (!fsocket_instance_count)
		fsocket_shadow_limit = -1;
}

void fsocket_shadow_forget_instance(uint32_t id)
{
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++)
		if (fsocket_shadows[fd].state > FREE && fsocket_shadows[fd].instance == id)
			fsocket_shadow_forget(fd);
	fsocket_shadow_remove_instance(id);
}

/* The sockets in the instance are registered nowhere after this. */
void fsocket_shadow_close_instance(uint32_t id)
{
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++) {
		struct shadow *s = &fsocket_shadows[fd];

		if (s->state > FREE && s->instance == id) {
			fsocket_shadow_strike(s);
			s->state = FREE;
		}
	}
	fsocket_shadow_remove_instance(id);
}

void fsocket_shadow_report(void)
{
	if (fsocket_saved_calls > 0) {
		fsocket_device_saved(fsocket_saved_calls);
		fsocket_saved_calls = 0;
	}
}

__attribute__((destructor)) static void report_at_exit(void)
{
	fsocket_shadow_report();
}

void fsocket_shadow_forget_all(void)
{
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++)
		if (fsocket_shadows[fd].state != UNKNOWN)
			fsocket_shadow_forget(fd);
	/* Threads may be created next, and must find no call owed. */
	make_room();
	fsocket_shadow_clear_instances();
}

/* Registers the socket with the program's wish, whatever the kernel has of it now. */
static void restore(int fd)
{
	struct shadow *s = &fsocket_shadows[fd];
	struct epoll_event event = { .events = s->events, .data.u64 = s->data };
	int epfd = fsocket_shadow_instance_fd(s->instance);

	if (s->state == LEAVING)
		fsocket_shadow_call(epfd, EPOLL_CTL_DEL, fd, &event);
	else if (s->state == REGISTERED)
		fsocket_shadow_call(epfd, EPOLL_CTL_MOD, fd, &event);
	else if (s->state == FLOATING &&
		 fsocket_shadow_call(epfd, EPOLL_CTL_ADD, fd, &event) && errno == EEXIST)
		fsocket_shadow_call(epfd, EPOLL_CTL_MOD, fd, &event);
}

/* The function that was changing the notes will not go on, and may have changed only a part. */
static void recover(void)
{
	int saved = errno;

	for (int fd = 0; fd <= fsocket_shadow_highest; fd++) {
		restore(fd);
		fsocket_shadows[fd].state = UNKNOWN;
		fsocket_shadows[fd].slot = -1;
		fsocket_shadows[fd].closed = 0;
	}
	fsocket_owed_count = 0;
	fsocket_shadow_clear_instances();
	jumped = false;
	errno = saved;
}

/*
 * fsocket_shadow_begin() when a change has already begun. Either a signal handler has
 * interrupted that change, and this is the handler; or a handler has left it by
 * siglongjmp(), and this is the code after that. The frames of a handler are below
 * those that it has interrupted, by as much as the kernel saves there, or on a stack of
 * their own.
 */
bool fsocket_shadow_begin_again(uintptr_t here)
{
	bool left = jumped || here > (fsocket_shadow_busy & ~INTERRUPTED) - SIGNAL_FRAME;
	stack_t other;

	if (!left || (!RAW2(SYS_sigaltstack, 0, &other) && other.ss_flags & SS_ONSTACK)) {
		fsocket_shadow_busy |= INTERRUPTED;
		return false;
	}
	fsocket_shadow_busy = here;
	fsocket_shadow_changes++;
	recover();
	return true;
}

void fsocket_shadow_jump(void)
{
	if (!fsocket_shadow_busy)
		return;
	jumped = true;
	/* If longjmp() was called elsewhere, fsocket_shadow_end() notices. */
	fsocket_shadow_busy |= INTERRUPTED;
}

/*
 * A signal handler has run while the notes were being changed. The notes tell only
 * which descriptors it has closed.
 */
RARELY void fsocket_shadow_end_interrupted(void)
{
	jumped = false;
	fsocket_shadow_changes++;
	fsocket_shadow_busy &= ~INTERRUPTED;
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++)
		if (fsocket_shadows[fd].closed)
			fsocket_shadow_drop(fd);
	fsocket_shadow_forget_all();
}
