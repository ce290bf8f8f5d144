// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fewer system calls of epoll, where nobody can tell (enable_fast_epoll).
 *
 * For each socket that the process has made itself, by socket() or accept(), we
 * keep what the program has registered (the wish) and what the kernel knows:
 *
 *	UNKNOWN		not followed: every call goes to the kernel
 *	FREE		followed, registered nowhere
 *	FLOATING	the program has added it, the kernel does not know
 *	REGISTERED	the kernel knows it, perhaps with an older wish
 *	LEAVING		the program has deleted it, the kernel has it still
 *
 * and so spare
 *
 *	ADD	of a FREE socket, which floats from then on. The next epoll_wait()
 *		becomes a poll() of the instance and of what floats in it; only if
 *		that says that the instance has something, epoll_wait() follows,
 *		without waiting, and the answers are merged. A connection that is
 *		soon closed has never been registered: the kernel neither allocates
 *		nor frees anything for it. One that floats through FLOAT_WAITS
 *		waits, or finds no room, is registered.
 *	MOD	of a FLOATING socket; of a REGISTERED one until the next
 *		epoll_wait(), and altogether if the wish is by then what it was.
 *	DEL	of a FLOATING socket; of a REGISTERED one until the next
 *		epoll_wait(), and altogether if the socket is closed by then.
 *
 * Why nobody can tell. epoll is an object of its own: what is registered acts
 * on the program through the answers of epoll_wait(), epoll_ctl() and poll() of
 * the instance, and through nothing else. So it is enough that these are as if
 * we were not here.
 *
 *  - Level-triggered and without flags (plain()), what epoll_wait() says about
 *    a socket is a function of the socket's state then and of the wish:
 *    the same vfs_poll() that poll() does, with the same mask. It does not depend
 *    on when or how often the wish was registered. Their order is nowhere
 *    promised. Nothing starves: what does not fit into maxevents is registered,
 *    and takes its turn in the kernel's list.
 *  - Before epoll_wait() all that is owed to its instance is done or floats.
 *  - epoll_ctl() fails for reasons that we know: the socket is registered or it
 *    is not, and event can be read (readable()). When it would fail we do what
 *    is owed and let the kernel say so.
 *  - Closing the last reference of a socket takes it out of every instance, so a
 *    DEL before is unnecessary. Ours is the last, as it was the only one when
 *    the socket was made, and whatever makes another ends our following: dup(),
 *    fork(), SCM_RIGHTS and the rest, see escape.c. The same holds for
 *    instances, which others could otherwise wait for.
 *  - With more than one thread nothing is followed.
 *
 * What can be told all the same: how long calls take; /proc/PID/fdinfo; an ADD
 * succeeds where fs.epoll.max_user_watches or memory is exhausted (the socket
 * then floats for good); epoll_wait() goes on waiting after SIGSTOP and SIGCONT
 * instead of failing with EINTR; a bad pointer to events is SIGSEGV where it was
 * EFAULT. And not followed are system calls made without the C library, and
 * references taken by others: pidfd_getfd() of a debugger, asynchronous I/O in
 * flight, network block devices. For programs to which that matters the
 * parameter is there.
 *
 * Signal handlers: what they close, duplicate or fork is followed. If one strikes
 * while we change our notes (never while we wait), all is settled and forgotten
 * as soon as it returns; if it leaves by siglongjmp(), as soon as the program makes
 * the next call that we follow (shadow.c).
 *
 * It ends for good where the proof does: with io_uring, whose requests hold sockets;
 * with a library loaded with RTLD_DEEPBIND, whose calls we do not see; when the
 * program confines itself with seccomp, as its filter may not know poll(); and when
 * poll() fails, as it does with RLIMIT_NOFILE lowered.
 */
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "device.h"
#include "epoll.h"
#include "real.h"
#include "shadow.h"

/* A wait costs a floating socket about a twentieth of ADD and close. */
#define FLOAT_WAITS	8
/* The kernel's limit to maxevents. */
#define MAX_EVENTS	(INT_MAX / (int)sizeof(struct epoll_event))

#define PLAIN_EVENTS	(EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDNORM | \
			 EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG | EPOLLRDHUP)

static uint32_t last_id;
static atomic_int threads;
static bool given_up;

static int real_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	REAL(epoll_wait);
	return real(epfd, events, maxevents, timeout);
}

static int real_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	REAL(poll);
	return real(fds, count, timeout);
}

static bool following(void)
{
	return fsocket_features->fast_epoll && !given_up &&
	       !atomic_load_explicit(&threads, memory_order_relaxed);
}

static bool plain(const struct epoll_event *event)
{
	return !(event->events & ~PLAIN_EVENTS);
}

extern void *__libc_stack_end;

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
	/* The program itself comes first; stop there. */
	return 1;
}

/*
 * Whether event can be read for sure, which otherwise the kernel has to find
 * out. It can if it is a variable of the program, or in a caller's frame on the
 * main stack. No mapping comes closer to the top of that than 128 MB
 * (mmap_base() in the kernel).
 */
static bool readable(const struct epoll_event *event)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	uintptr_t left = (uintptr_t)__libc_stack_end - here;

	for (int i = 0; i < area_count; i++)
		if (areas[i].size >= sizeof(*event) &&
		    (uintptr_t)event - areas[i].start <= areas[i].size - sizeof(*event))
			return true;
	return left < 128 << 20 && (uintptr_t)event - here < left - sizeof(*event);
}

static void before_fork(void)
{
	fsocket_epoll_escape_all();
	fsocket_shadow_report();
}

/* A child has what its parent had, but only one thread. */
static void in_child(void)
{
	fsocket_owed_count = 0;
	for (int fd = 0; fd <= fsocket_shadow_highest; fd++) {
		fsocket_shadows[fd].state = UNKNOWN;
		fsocket_shadows[fd].slot = -1;
	}
	fsocket_instance_count = 0;
	fsocket_saved_calls = 0;
	atomic_store(&threads, 0);
}

/* Its requests hold sockets, and are made by system calls that we do not see. */
static int is_liburing(struct dl_phdr_info *info, __attribute__((unused)) size_t size,
		       __attribute__((unused)) void *data)
{
	return info->dlpi_name && strstr(info->dlpi_name, "/liburing");
}

static void new_instance(int epfd)
{
	static bool prepared;

	if (epfd < 0 || given_up || atomic_load(&threads) ||
	    dl_iterate_phdr(is_liburing, NULL) || !fsocket_shadow_begin())
		return;
	if (!prepared)
		prepared = !pthread_atfork(before_fork, NULL, in_child) &&
			   dl_iterate_phdr(note_areas, NULL);
	if (prepared && fsocket_instance_count < MAX_INSTANCES) {
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

void fsocket_epoll_new_socket(int fd)
{
	struct shadow *s;

	if (fd < 0 || fd >= FSOCKET_MAX_FD || !following() || !fsocket_instance_count || !fsocket_shadow_begin())
		return;
	s = &fsocket_shadows[fd];
	if (fd <= fsocket_shadow_highest)
		fsocket_shadow_drop(fd);
	for (; fsocket_shadow_highest < fd; fsocket_shadow_highest++)
		fsocket_shadows[fsocket_shadow_highest + 1].slot = -1;
	s->state = FREE;
	fsocket_shadow_end();
}

/*
 * Makes the call, which is expected to succeed: the socket is REGISTERED or LEAVING from now
 * on, or goes on floating.
 */
static bool defer(int fd, uint32_t id, int op)
{
	struct shadow *s = &fsocket_shadows[fd];

	if (!fsocket_shadow_owe(fd))
		return false;
	fsocket_saved_calls++;
	if (op == EPOLL_CTL_DEL && s->state == FLOATING) {
		fsocket_shadow_strike(s);
		s->state = FREE;
	} else if (op == EPOLL_CTL_DEL) {
		s->state = LEAVING;
	} else if (s->state == LEAVING) {
		s->state = REGISTERED;
	} else if (s->state == FREE) {
		s->instance = id;
		s->state = FLOATING;
		s->waits = 0;
	}
	return true;
}

static int follow_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct shadow *s = &fsocket_shadows[fd];
	bool there = s->state == FLOATING || s->state == REGISTERED;
	uint32_t id = fsocket_shadow_find_instance(epfd);
	int ret;

	if (!following() || !id || (s->state > FREE && s->instance != id) ||
	    (op == EPOLL_CTL_ADD ? there : !there) ||
	    (op != EPOLL_CTL_DEL && op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD) ||
	    (op != EPOLL_CTL_DEL && (!readable(event) || !plain(event)))) {
		fsocket_shadow_forget(fd);
		return fsocket_shadow_call(epfd, op, fd, event);
	}
	if (defer(fd, id, op)) {
		if (op != EPOLL_CTL_DEL)
			s->wish = (struct wish){ event->data.u64, event->events };
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
		s->wish = (struct wish){ event->data.u64, event->events };
		s->kernels = s->wish;
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

/* The sockets that float in one instance, as they were when a wait began. */
struct floats {
	int count;
	uint32_t serials[MAX_OWED];
	/* polled[0] is the instance. */
	struct pollfd polled[1 + MAX_OWED];
};

static void gather(uint32_t id, struct floats *f)
{
	f->count = 0;
	for (int i = fsocket_owed_count - 1; i >= 0; i--) {
		int fd = fsocket_owed[i];
		struct shadow *s = &fsocket_shadows[fd];

		if (s->instance != id)
			continue;
		if (s->state != FLOATING || s->waits++ >= FLOAT_WAITS)
			fsocket_shadow_settle(fd);
		if (s->state != FLOATING)
			continue;
		f->serials[f->count++] = s->serial;
		f->polled[f->count].fd = fd;
		f->polled[f->count].events = s->wish.events;
	}
}

/* Adds the results of poll() to the count events that are there, and returns their number then. */
static int merge(const struct floats *f, struct epoll_event *events, int count, int maxevents)
{
	for (int i = 0; i < f->count; i++) {
		const struct pollfd *p = &f->polled[1 + i];
		struct shadow *s = &fsocket_shadows[p->fd];

		/* Skip a socket that a signal handler has changed meanwhile. */
		if (!p->revents || s->serial != f->serials[i] || s->state != FLOATING)
			continue;
		if (p->revents & POLLNVAL) {
			fsocket_shadow_drop(p->fd);
		} else if (count < maxevents) {
			events[count].events = p->revents & (s->wish.events | POLLERR | POLLHUP);
			events[count].data.u64 = s->wish.data;
			count += !!events[count].events;
		} else {
			fsocket_shadow_settle(p->fd);
		}
	}
	return count;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/*
 * Returns 0 on timeout (*over is true) or when nothing was ready after all (*over is false).
 * Returns -1 with ENOSYS if poll() cannot be used: RLIMIT_NOFILE, which poll() heeds, has
 * been lowered, or a seccomp filter allows epoll_wait() only.
 */
static int wait_once(int epfd, struct epoll_event *events, int maxevents, int timeout,
		     struct floats *f, bool *over)
{
	int ready, count = 0, saved = errno;

	f->polled[0].fd = epfd;
	f->polled[0].events = POLLIN;
	fsocket_saved_calls--;
	ready = real_poll(f->polled, 1 + f->count, timeout);
	*over = !ready;
	if (ready < 0 && errno != EINTR)
		errno = ENOSYS;
	if (ready <= 0)
		return ready;
	if (f->polled[0].revents) {
		fsocket_saved_calls--;
		count = real_wait(epfd, events, maxevents, 0);
		if (count < 0 && ready == 1)
			return count;
		if (count < 0)
			count = 0;
	}
	errno = saved;
	if (!fsocket_shadow_begin())
		return count;
	count = merge(f, events, count, maxevents);
	fsocket_shadow_end();
	return count;
}

int fsocket_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	bool over = false, possible = maxevents > 0 && maxevents <= MAX_EVENTS;
	int count = 0, saved = errno;
	int64_t until = 0;
	struct floats f;

	if (!fsocket_owed_count)
		return real_wait(epfd, events, maxevents, timeout);
	if (timeout > 0)
		until = now_ms() + timeout;
	fsocket_saved_calls++;
	while (!count && !over) {
		if (!fsocket_shadow_begin())
			return real_wait(epfd, events, maxevents, timeout);
		if (!following() || !possible)
			fsocket_shadow_settle_instance(fsocket_shadow_find_instance(epfd));
		gather(fsocket_shadow_find_instance(epfd), &f);
		fsocket_saved_calls -= !f.count;
		fsocket_shadow_end();
		if (!f.count || !possible)
			return real_wait(epfd, events, maxevents, timeout);
		count = wait_once(epfd, events, maxevents, timeout, &f, &over);
		if (count < 0 && errno == ENOSYS) {
			errno = saved;
			fsocket_epoll_give_up();
			return real_wait(epfd, events, maxevents, timeout);
		}
		if (!count && !over && timeout > 0)
			timeout = until > now_ms() ? until - now_ms() : 0;
	}
	return count;
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

void fsocket_epoll_escape_all(void)
{
	if (!fsocket_instance_count || !fsocket_shadow_begin())
		return;
	fsocket_shadow_forget_all();
	fsocket_shadow_end();
}

void fsocket_epoll_give_up(void)
{
	fsocket_epoll_escape_all();
	given_up = true;
}

void fsocket_epoll_thread_starts(void)
{
	fsocket_epoll_escape_all();
	atomic_fetch_add(&threads, 1);
}

void fsocket_epoll_thread_joined(void)
{
	atomic_fetch_sub(&threads, 1);
}
