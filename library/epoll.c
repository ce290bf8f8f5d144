// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fewer system calls of epoll, without any effect that a program can see
 * (enable_fast_epoll).
 *
 * For each socket that the process has made itself, by socket() or accept(), the
 * library stores what the program has registered (the wish) and what the kernel knows:
 *
 *	UNKNOWN		not followed: every call goes to the kernel
 *	FREE		followed, registered nowhere
 *	FLOATING	the program has added it, the kernel does not know
 *	REGISTERED	the kernel knows it, perhaps with an older wish
 *	LEAVING		the program has deleted it, the kernel has it still
 *
 * So it saves these calls:
 *
 *	ADD	of a FREE socket, which floats from then on. The next epoll_wait()
 *		becomes a poll() of the instance and of the sockets that float in
 *		it. Only if poll() reports the instance as ready does epoll_wait()
 *		follow, without waiting, and the answers are merged. A connection
 *		that is closed soon is never registered: the kernel neither
 *		allocates nor frees anything for it. A socket that floats through
 *		FLOAT_WAITS waits, or finds no room, is registered.
 *	MOD	of a FLOATING socket; of a REGISTERED one until the next
 *		epoll_wait(), and for good if the wish is by then what it was.
 *	DEL	of a FLOATING socket; of a REGISTERED one until the next
 *		epoll_wait(), and for good if the socket is closed by then.
 *
 * Why a program cannot see this: an epoll instance is an object of its own. What is
 * registered acts on the program only through the answers of epoll_wait(), epoll_ctl()
 * and poll() of the instance. So it is enough that these are as without the library.
 *
 * - Level-triggered and without flags (plain()), the answer of epoll_wait() about
 *   a socket is a function of the socket's state at that moment and of the wish:
 *   the same vfs_poll() that poll() calls, with the same mask. It does not depend
 *   on when or how often the wish was registered. The order of answers is nowhere
 *   promised. No socket starves: one that does not fit into maxevents is
 *   registered, and takes its turn in the kernel's list.
 * - Before epoll_wait() every call that is owed to its instance is made, or its
 *   socket floats.
 * - epoll_ctl() fails for reasons that the library knows: the socket is registered
 *   or it is not, and event can be read (readable()). When it would fail, the
 *   library makes the calls that it owes and leaves the answer to the kernel.
 * - Closing the last reference of a socket removes it from every instance, so a
 *   DEL before is unnecessary. The descriptor is the last reference: it was the
 *   only one when the socket was made, and every call that makes another ends the
 *   following: dup(), fork(), SCM_RIGHTS and the rest, see escape.c. The same holds
 *   for instances, for which other processes could otherwise wait.
 * - With more than one thread nothing is followed.
 *
 * A program can see these differences all the same: the duration of calls;
 * /proc/PID/fdinfo; an ADD succeeds although fs.epoll.max_user_watches or memory is
 * exhausted (the socket then floats for good); epoll_wait() goes on waiting after
 * SIGSTOP and SIGCONT instead of failing with EINTR; a bad pointer to events is SIGSEGV
 * instead of EFAULT. The library does not follow system calls made without the C
 * library, nor references taken from outside: pidfd_getfd() of a debugger, asynchronous
 * I/O in flight, network block devices. Programs to which that matters can switch the
 * parameter off.
 *
 * Signal handlers: the library follows what they close, duplicate or fork. If a handler
 * runs while the notes are being changed (never during a wait), all calls are made and
 * all notes forgotten as soon as it returns; if it leaves by siglongjmp(), as soon as
 * the program makes the next call that the library follows (shadow.c). Until then the
 * kernel answers, which may not know yet of sockets that float. A handler that closes a
 * socket which is about to be registered, and opens another one of the same number, may
 * find that one registered.
 *
 * The following ends for good in the cases that the proof does not cover: io_uring,
 * whose requests hold sockets; a library loaded with RTLD_DEEPBIND, whose calls are not
 * seen; a program that confines itself with seccomp, as its filter may not know poll();
 * a poll() that fails, as it does with RLIMIT_NOFILE lowered; and pthread_cancel(),
 * since the waits of wait.c are no cancellation points of the C library.
 */
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/single_threaded.h>

#include "device.h"
#include "epoll.h"
#include "kernel.h"
#include "real.h"
#include "shadow.h"

extern void *__libc_stack_end;

static uint32_t last_id;
static bool given_up;

static bool plain(const struct epoll_event *event)
{
	return !(event->events & ~PLAIN_EVENTS);
}

/* The memory of the program's own variables: static ones, and those of its first thread. */
static struct area {
	uintptr_t start, size;
} areas[4];
static int area_count;

static int note_areas(struct dl_phdr_info *info, __attribute__((unused)) size_t size,
		      __attribute__((unused)) void *data)
{
	const int max = sizeof(areas) / sizeof(*areas);

	for (int i = 0; i < info->dlpi_phnum && area_count < max; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_LOAD && p->p_flags & PF_W)
			areas[area_count++] = (struct area){ info->dlpi_addr + p->p_vaddr,
							     p->p_memsz };
		else if (p->p_type == PT_TLS && info->dlpi_tls_data)
			areas[area_count++] = (struct area){ (uintptr_t)info->dlpi_tls_data,
							     p->p_memsz };
	}
	/* The first entry is the program itself; stop there. */
	return 1;
}

/* Returns whether event can surely be read; otherwise the kernel has to find out. */
static bool readable(const struct epoll_event *event)
{
	if (fsocket_shadow_on_stack(event, (uintptr_t)__builtin_frame_address(0)))
		return true;
	for (int i = 0; i < area_count; i++)
		if (areas[i].size >= sizeof(*event) &&
		    (uintptr_t)event - areas[i].start <= areas[i].size - sizeof(*event))
			return true;
	return false;
}

static void before_fork(void)
{
	fsocket_epoll_escape_all();
	fsocket_shadow_report();
}

/*
 * A child has the state of its parent, but only one thread. If the parent has had others, the child
 * does not follow calls: new_instance() would have to look at the shared objects, and the lock of the
 * dynamic linker for that may be one of those that fork() does not release (imports.c). making.c has
 * found out before this, since its functions were given to pthread_atfork() first.
 */
static void in_child(void)
{
	fsocket_owed_count = 0;
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++) {
		fsocket_shadows[fd].state = UNKNOWN;
		fsocket_shadows[fd].slot = -1;
	}
	fsocket_shadow_clear_instances();
	fsocket_saved_calls = 0;
	given_up |= fsocket_child_of_threads;
	atomic_store(&fsocket_shadow_obstacles, given_up ? GIVEN_UP : 0);
}

/* Requests of io_uring hold sockets, and are made by system calls that the library does not see. */
static int is_liburing(struct dl_phdr_info *info, __attribute__((unused)) size_t size,
		       __attribute__((unused)) void *data)
{
	return info->dlpi_name && strstr(info->dlpi_name, "/liburing");
}

static void new_instance(int epfd)
{
	static bool prepared;

	/* The kernel backend never asks the module, so there is nothing to follow. */
	if (epfd < 0 || fsocket_kernel_chosen() || atomic_load(&fsocket_shadow_obstacles) ||
	    dl_iterate_phdr(is_liburing, NULL) || !fsocket_shadow_begin())
		return;
	if (!prepared)
		prepared = !pthread_atfork(before_fork, NULL, in_child) &&
			   dl_iterate_phdr(note_areas, NULL);
	fsocket_shadow_stack = (uintptr_t)__libc_stack_end - sizeof(struct epoll_event);
	if (prepared && fsocket_instance_count < MAX_INSTANCES) {
		if (epfd > fsocket_instance_highest)
			fsocket_instance_highest = epfd;
		fsocket_instances[fsocket_instance_count].fd = epfd;
		fsocket_instances[fsocket_instance_count++].id = ++last_id;
	}
	fsocket_shadow_end();
}

int epoll_create(int size)
{
	int epfd;

	REAL(epoll_create);
	epfd = real(size);
	new_instance(epfd);
	return epfd;
}

int epoll_create1(int flags)
{
	int epfd;

	REAL(epoll_create1);
	epfd = real(flags);
	new_instance(epfd);
	return epfd;
}

/*
 * Makes the call, which should succeed: afterwards the socket is REGISTERED or LEAVING,
 * or goes on floating.
 */
static bool defer(int fd, uint32_t id, int op)
{
	struct shadow *s = &fsocket_shadows[fd];

	if (!fsocket_shadow_owe(s))
		return false;
	fsocket_saved_calls++;
	if (op == EPOLL_CTL_DEL && s->state == FLOATING) {
		s->state = FREE;
	} else if (op == EPOLL_CTL_DEL) {
		s->state = LEAVING;
	} else if (s->state == LEAVING) {
		s->state = REGISTERED;
	} else if (s->state == FREE) {
		s->instance = id;
		s->state = FLOATING;
		s->waits = FLOAT_WAITS;
	}
	return true;
}

static void wish(struct shadow *s, const struct epoll_event *event)
{
	s->data = event->data.u64;
	s->events = event->events;
}

static int follow_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct shadow *s = &fsocket_shadows[fd];
	bool there = s->state == FLOATING || s->state == REGISTERED;
	uint32_t id = fsocket_shadow_find_instance(epfd);
	int ret;

	if (!fsocket_shadow_following() || !id || (s->state > FREE && s->instance != id) ||
	    (op == EPOLL_CTL_ADD ? there : !there) ||
	    (op != EPOLL_CTL_DEL && op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD) ||
	    (op != EPOLL_CTL_DEL && (!readable(event) || !plain(event)))) {
		fsocket_shadow_forget(fd);
		return fsocket_shadow_call(epfd, op, fd, event);
	}
	if (defer(fd, id, op)) {
		if (op != EPOLL_CTL_DEL)
			wish(s, event);
		return 0;
	}
	ret = fsocket_shadow_call(epfd, op, fd, event);
	if (ret) {
		s->state = UNKNOWN;
	} else if (op == EPOLL_CTL_DEL) {
		s->state = FREE;
	} else {
		s->instance = id;
		s->state = REGISTERED;
		wish(s, event);
		s->kernel_events = s->events;
		s->kernel_data = s->data;
	}
	return ret;
}

int fsocket_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	int ret;

	/* fd may be an epoll instance that is added to another one. */
	fsocket_epoll_watched(fd);
	if (!fsocket_shadow_of(fd) || !fsocket_shadow_begin())
		return fsocket_shadow_call(epfd, op, fd, event);
	ret = follow_ctl(epfd, op, fd, event);
	fsocket_shadow_end();
	return ret;
}

void fsocket_epoll_settle(int epfd)
{
	if (fsocket_owed_count && fsocket_shadow_begin()) {
		fsocket_shadow_settle_instance(fsocket_shadow_find_instance(epfd));
		fsocket_shadow_end();
	}
}

void fsocket_epoll_close(int fd)
{
	struct shadow *s = fsocket_shadow_of(fd);
	uint32_t id = fsocket_shadow_find_instance(fd);

	if (!s && !id)
		return;
	if (!fsocket_shadow_begin()) {
		if (s)
			s->closed = 1;
		return;
	}
	if (s)
		fsocket_shadow_drop(fd);
	if (id)
		fsocket_shadow_close_instance(id);
	fsocket_shadow_end();
}

void fsocket_epoll_escape(int fd)
{
	struct shadow *s = fsocket_shadow_of(fd);
	uint32_t id = fsocket_shadow_find_instance(fd);

	if ((!s && !id) || !fsocket_shadow_begin())
		return;
	if (s)
		fsocket_shadow_forget(fd);
	if (id)
		fsocket_shadow_forget_instance(id);
	fsocket_shadow_end();
}

void fsocket_epoll_watched(int fd)
{
	if (fsocket_shadow_find_instance(fd))
		fsocket_epoll_escape(fd);
}

bool fsocket_epoll_follows(void)
{
	return fsocket_instance_count;
}

bool fsocket_epoll_defers(void)
{
	return fsocket_instance_count && (fsocket_features->fast_epoll || fsocket_owed_count);
}

void fsocket_epoll_escape_all(void)
{
	if ((!fsocket_instance_count && !fsocket_owed_count) || !fsocket_shadow_begin())
		return;
	fsocket_shadow_forget_all();
	fsocket_shadow_end();
}

void fsocket_epoll_give_up(void)
{
	fsocket_epoll_escape_all();
	fsocket_shadow_limit = -1;
	if (!given_up)
		atomic_fetch_add(&fsocket_shadow_obstacles, GIVEN_UP);
	given_up = true;
}

void fsocket_epoll_thread_starts(void)
{
	fsocket_epoll_escape_all();
	fsocket_shadow_limit = -1;
	atomic_fetch_add(&fsocket_shadow_obstacles, 1);
}

void fsocket_epoll_thread_joined(void)
{
	atomic_fetch_sub(&fsocket_shadow_obstacles, 1);
}
