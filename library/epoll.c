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
 * as soon as it returns.
 */
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "epoll.h"
#include "real.h"

/* Sockets with higher numbers are not followed. */
#define MAX_FD		65536
#define MAX_INSTANCES	8
/* The kernel's poll() has room for 30 on its stack, one of which is the instance. */
#define MAX_OWED	29
/* A wait costs a floating socket about a twentieth of ADD and close. */
#define FLOAT_WAITS	8
/* The kernel's limit to maxevents. */
#define MAX_EVENTS	(INT_MAX / (int)sizeof(struct epoll_event))
/* Spared calls are reported by so many. */
#define REPORT		128

#define PLAIN_EVENTS	(EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDNORM | \
			 EPOLLRDBAND | EPOLLWRNORM | EPOLLWRBAND | EPOLLMSG | EPOLLRDHUP)

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
	/* Position in owed[], or -1. */
	int8_t slot;
	uint8_t waits;
	uint8_t state;
	/* By a signal handler that interrupted us. */
	volatile uint8_t closed;
};

static struct shadow shadows[MAX_FD];
static int highest = -1;

/* The epoll instances that only this process knows. ids are never used again. */
static struct {
	int fd;
	uint32_t id;
} instances[MAX_INSTANCES];
static int instance_count;
static uint32_t last_id;

/*
 * What floats, leaves, or was modified. An entry may be of no consequence any
 * more, as a later wish took it back.
 */
static int owed[MAX_OWED];
static int owed_count;

static const struct fsocket_features nothing;
const volatile struct fsocket_features *fsocket_features = &nothing;

static atomic_int threads;
static bool given_up;

/* Calls spared, less those made in their stead; not yet reported. */
static int saved_calls;

static volatile sig_atomic_t busy;
static volatile sig_atomic_t interrupted;

static int real_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	return real(epfd, op, fd, event);
}

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

static struct shadow *shadow_of(int fd)
{
	return fd >= 0 && fd <= highest && shadows[fd].state != UNKNOWN ? &shadows[fd] : NULL;
}

static bool plain(const struct epoll_event *event)
{
	return !(event->events & ~PLAIN_EVENTS);
}

extern void *__libc_stack_end;

/* The program's own variables: static ones, and those of its first thread. */
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
	/* The first is the program. */
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

static uint32_t find_instance(int epfd)
{
	for (int i = 0; i < instance_count; i++)
		if (instances[i].fd == epfd)
			return instances[i].id;
	return 0;
}

static int instance_fd(uint32_t id)
{
	for (int i = 0; i < instance_count; i++)
		if (instances[i].id == id)
			return instances[i].fd;
	return -1;
}

static bool owe(int fd)
{
	if (shadows[fd].slot >= 0)
		return true;
	if (owed_count == MAX_OWED)
		return false;
	shadows[fd].slot = owed_count;
	owed[owed_count++] = fd;
	return true;
}

static void strike(struct shadow *s)
{
	int last;

	if (s->slot < 0)
		return;
	last = owed[--owed_count];
	owed[s->slot] = last;
	shadows[last].slot = s->slot;
	s->slot = -1;
}

static bool same(const struct wish *a, const struct wish *b)
{
	return a->events == b->events && a->data == b->data;
}

static void make_call(int op, int fd)
{
	struct shadow *s = &shadows[fd];
	struct epoll_event event = { .events = s->wish.events, .data.u64 = s->wish.data };
	int saved = errno;

	saved_calls--;
	if (!real_ctl(instance_fd(s->instance), op, fd, &event)) {
		s->state = op == EPOLL_CTL_DEL ? FREE : REGISTERED;
		s->kernels = s->wish;
	} else if (errno == EBADF || op != EPOLL_CTL_ADD) {
		/* Closed by a call that we have not seen. */
		s->state = UNKNOWN;
	}
	/* Else memory, or what the user may watch, is exhausted: it floats on. */
	errno = saved;
}

/* Makes the kernel know what the program has asked for. */
static void settle(int fd)
{
	struct shadow *s = &shadows[fd];

	if (s->state == FLOATING)
		make_call(EPOLL_CTL_ADD, fd);
	else if (s->state == LEAVING)
		make_call(EPOLL_CTL_DEL, fd);
	else if (s->state == REGISTERED && !same(&s->wish, &s->kernels))
		make_call(EPOLL_CTL_MOD, fd);
	if (s->state != FLOATING)
		strike(s);
}

static void settle_instance(uint32_t id)
{
	/* Backwards, as what is settled is replaced by the last. */
	for (int i = owed_count - 1; i >= 0; i--)
		if (shadows[owed[i]].instance == id)
			settle(owed[i]);
}

static void forget(int fd)
{
	settle(fd);
	if (shadows[fd].state != FLOATING)
		shadows[fd].state = UNKNOWN;
}

/* What the kernel does with a socket whose last reference is closed. */
static void drop(int fd)
{
	struct shadow *s = &shadows[fd];

	strike(s);
	s->state = UNKNOWN;
	s->closed = 0;
	s->serial++;
}

static void remove_instance(uint32_t id)
{
	for (int i = 0; i < instance_count; i++)
		if (instances[i].id == id)
			instances[i] = instances[--instance_count];
}

static void forget_instance(uint32_t id)
{
	for (int fd = 0; fd <= highest; fd++)
		if (shadows[fd].state > FREE && shadows[fd].instance == id)
			forget(fd);
	remove_instance(id);
}

/* All sockets in it are nowhere then. */
static void close_instance(uint32_t id)
{
	for (int fd = 0; fd <= highest; fd++) {
		struct shadow *s = &shadows[fd];

		if (s->state > FREE && s->instance == id) {
			strike(s);
			s->state = FREE;
		}
	}
	remove_instance(id);
}

static void report(void)
{
	int saved = errno;

	if (saved_calls > 0) {
		fsocket_report_saved(saved_calls);
		saved_calls = 0;
	}
	errno = saved;
}

__attribute__((destructor)) static void report_at_exit(void)
{
	report();
}

static void forget_all(void)
{
	for (int fd = 0; fd <= highest; fd++)
		if (shadows[fd].state != UNKNOWN)
			forget(fd);
	instance_count = 0;
}

/*
 * Our notes change only between begin() and end(). begin() is false in a signal
 * handler that has interrupted that.
 */
static bool begin(void)
{
	if (busy) {
		interrupted = 1;
		return false;
	}
	busy = 1;
	atomic_signal_fence(memory_order_seq_cst);
	return true;
}

static void end(void)
{
	while (interrupted) {
		interrupted = 0;
		for (int fd = 0; fd <= highest; fd++)
			if (shadows[fd].closed)
				drop(fd);
		forget_all();
	}
	if (saved_calls >= REPORT)
		report();
	atomic_signal_fence(memory_order_seq_cst);
	busy = 0;
}

static void before_fork(void)
{
	fsocket_epoll_escape_all();
	report();
}

/* It has what its parent had, but no threads. */
static void in_child(void)
{
	owed_count = 0;
	for (int fd = 0; fd <= highest; fd++) {
		shadows[fd].state = UNKNOWN;
		shadows[fd].slot = -1;
	}
	instance_count = 0;
	saved_calls = 0;
	atomic_store(&threads, 0);
}

static void new_instance(int epfd)
{
	static bool prepared;

	if (epfd < 0 || given_up || atomic_load(&threads) || !begin())
		return;
	if (!prepared)
		prepared = !pthread_atfork(before_fork, NULL, in_child) &&
			   dl_iterate_phdr(note_areas, NULL);
	if (prepared && instance_count < MAX_INSTANCES) {
		instances[instance_count].fd = epfd;
		instances[instance_count++].id = ++last_id;
	}
	end();
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

	if (fd < 0 || fd >= MAX_FD || !following() || !instance_count || !begin())
		return;
	s = &shadows[fd];
	if (fd <= highest)
		drop(fd);
	for (; highest < fd; highest++)
		shadows[highest + 1].slot = -1;
	s->state = FREE;
	end();
}

/* A call that does what it should: REGISTERED or LEAVING from now on, or floating. */
static bool defer(int fd, uint32_t id, int op)
{
	struct shadow *s = &shadows[fd];

	if (!owe(fd))
		return false;
	saved_calls++;
	if (op == EPOLL_CTL_DEL && s->state == FLOATING) {
		strike(s);
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
	struct shadow *s = &shadows[fd];
	bool there = s->state == FLOATING || s->state == REGISTERED;
	uint32_t id = find_instance(epfd);
	int ret;

	if (!following() || !id || (s->state > FREE && s->instance != id) ||
	    (op == EPOLL_CTL_ADD ? there : !there) ||
	    (op != EPOLL_CTL_DEL && op != EPOLL_CTL_ADD && op != EPOLL_CTL_MOD) ||
	    (op != EPOLL_CTL_DEL && (!readable(event) || !plain(event)))) {
		forget(fd);
		return real_ctl(epfd, op, fd, event);
	}
	if (defer(fd, id, op)) {
		if (op != EPOLL_CTL_DEL)
			s->wish = (struct wish){ event->data.u64, event->events };
		return 0;
	}
	ret = real_ctl(epfd, op, fd, event);
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

	/* One instance in another. */
	fsocket_epoll_watched(fd);
	if (!shadow_of(fd) || !begin())
		return real_ctl(epfd, op, fd, event);
	ret = follow_ctl(epfd, op, fd, event);
	end();
	return ret;
}

void fsocket_epoll_settle(int epfd)
{
	if (owed_count && begin()) {
		settle_instance(find_instance(epfd));
		end();
	}
}

/* What floats in one instance, as it was when a wait began. */
struct floats {
	int count;
	uint32_t serials[MAX_OWED];
	/* The first is the instance. */
	struct pollfd polled[1 + MAX_OWED];
};

static void gather(uint32_t id, struct floats *f)
{
	f->count = 0;
	for (int i = owed_count - 1; i >= 0; i--) {
		int fd = owed[i];
		struct shadow *s = &shadows[fd];

		if (s->instance != id)
			continue;
		if (s->state != FLOATING || s->waits++ >= FLOAT_WAITS)
			settle(fd);
		if (s->state != FLOATING)
			continue;
		f->serials[f->count++] = s->serial;
		f->polled[f->count].fd = fd;
		f->polled[f->count].events = s->wish.events;
	}
}

/* Adds what poll() said to the count events that are there; their number then. */
static int merge(const struct floats *f, struct epoll_event *events, int count, int maxevents)
{
	for (int i = 0; i < f->count; i++) {
		const struct pollfd *p = &f->polled[1 + i];
		struct shadow *s = &shadows[p->fd];

		/* A signal handler has done something with it, and not the last word. */
		if (!p->revents || s->serial != f->serials[i] || s->state != FLOATING)
			continue;
		if (p->revents & POLLNVAL) {
			drop(p->fd);
		} else if (count < maxevents) {
			events[count].events = p->revents & (s->wish.events | POLLERR | POLLHUP);
			events[count].data.u64 = s->wish.data;
			count += !!events[count].events;
		} else {
			settle(p->fd);
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

/* 0 also if there turned out to be nothing after all; *over then says if time is. */
static int wait_once(int epfd, struct epoll_event *events, int maxevents, int timeout,
		     struct floats *f, bool *over)
{
	int ready, count = 0, saved = errno;

	f->polled[0].fd = epfd;
	f->polled[0].events = POLLIN;
	saved_calls--;
	ready = real_poll(f->polled, 1 + f->count, timeout);
	*over = !ready;
	if (ready <= 0)
		return ready;
	if (f->polled[0].revents) {
		saved_calls--;
		count = real_wait(epfd, events, maxevents, 0);
		if (count < 0 && ready == 1)
			return count;
		if (count < 0)
			count = 0;
	}
	errno = saved;
	if (!begin())
		return count;
	count = merge(f, events, count, maxevents);
	end();
	return count;
}

int fsocket_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout)
{
	bool over = false, possible = maxevents > 0 && maxevents <= MAX_EVENTS;
	int64_t until = 0;
	struct floats f;
	int count = 0;

	if (!owed_count)
		return real_wait(epfd, events, maxevents, timeout);
	if (timeout > 0)
		until = now_ms() + timeout;
	saved_calls++;
	while (!count && !over) {
		if (!begin())
			return real_wait(epfd, events, maxevents, timeout);
		if (!following() || !possible)
			settle_instance(find_instance(epfd));
		gather(find_instance(epfd), &f);
		saved_calls -= !f.count;
		end();
		if (!f.count || !possible)
			return real_wait(epfd, events, maxevents, timeout);
		count = wait_once(epfd, events, maxevents, timeout, &f, &over);
		if (!count && !over && timeout > 0)
			timeout = until > now_ms() ? until - now_ms() : 0;
	}
	return count;
}

void fsocket_epoll_close(int fd)
{
	struct shadow *s = shadow_of(fd);
	uint32_t id = find_instance(fd);

	if (!s && !id)
		return;
	if (!begin()) {
		if (s)
			s->closed = 1;
		return;
	}
	if (s)
		drop(fd);
	if (id)
		close_instance(id);
	end();
}

void fsocket_epoll_escape(int fd)
{
	struct shadow *s = shadow_of(fd);
	uint32_t id = find_instance(fd);

	if ((!s && !id) || !begin())
		return;
	if (s)
		forget(fd);
	if (id)
		forget_instance(id);
	end();
}

void fsocket_epoll_watched(int fd)
{
	if (find_instance(fd))
		fsocket_epoll_escape(fd);
}

bool fsocket_epoll_follows(void)
{
	return instance_count;
}

void fsocket_epoll_escape_all(void)
{
	if (!instance_count || !begin())
		return;
	forget_all();
	end();
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
