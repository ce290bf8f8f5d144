// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes of a server that wait for its listener by poll() or select(), beside workers
 * that wait by epoll. They are no workers, and have no member, but they take what waits
 * in members that nobody serves, since otherwise these connections would wait for ever
 * when the workers have died. So they look at the members from time to time, as an idle
 * worker does, and report the listener as readable.
 *
 * Signals are blocked between two looks: see worker.c.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/select.h>
#include <time.h>

#include "clock.h"
#include "device.h"
#include "group.h"
#include "memory.h"
#include "real.h"
#include "signals.h"
#include "worker.h"

/* Arguments of poll() or select(). */
struct question {
	struct pollfd *fds;
	unsigned int count;		/* the kernel takes no more of the number */
	int highest;
	fd_set *sets[3], asked[3];	/* where the answers go, and what the program asks for */
};

/* poll() reports a listener with a connection by both. */
#define READABLE	(POLLIN | POLLRDNORM)

static __thread long looked __attribute__((tls_model("initial-exec")));

/* Returns the group of a listener with members that may have connections. */
static struct group *group_at(int fd)
{
	struct group *g = fsocket_group_of(fd);

	return g && g->route->listening && !fsocket_device_confined() ? g : NULL;
}

static bool overdue(struct group *g)
{
	bool timely[GROUP_MEMBERS];

	/* The lock of the route does not exclude a worker of this process. */
	if (!fsocket_worker_hold())
		return false;
	fsocket_route_tend(g);
	fsocket_worker_let_go();
	fsocket_route_timely(g->route, NULL, late_of(g->route), timely);
	return fsocket_members_readable(g, timely);
}

bool fsocket_bystander_limit(const long *limit)
{
	return !limit || (fsocket_readable_all(limit, 2 * sizeof(*limit)) &&
			  limit[0] >= 0 && limit[0] < 1000000000 &&
			  limit[1] >= 0 && limit[1] < 1000000000);
}

bool fsocket_bystander_polls(const struct pollfd *fds, unsigned int count)
{
	if (fsocket_device_confined() || !fsocket_readable_all(fds, count * sizeof(*fds)))
		return false;
	for (unsigned int i = 0; i < count; i++)
		if (fds[i].events & READABLE && group_at(fds[i].fd))
			return true;
	return false;
}

bool fsocket_bystander_selects(int highest, const fd_set *const sets[3])
{
	if (!sets[0] || highest > FD_SETSIZE)
		return false;
	for (int i = 0; i < 3; i++)
		if (sets[i] && !fsocket_readable_all(sets[i], FSOCKET_SET_SIZE(highest)))
			return false;
	for (int fd = 0; fd < highest; fd++)
		if (FD_ISSET(fd, sets[0]) && group_at(fd))
			return true;
	return false;
}

/* Notes as much of each set as select() reads: the program may have no memory for more. */
static void note_sets(struct question *q)
{
	for (int i = 0; i < 3; i++)
		if (q->sets[i])
			memcpy(&q->asked[i], q->sets[i], FSOCKET_SET_SIZE(q->highest));
}

/*
 * Restores what an answer has changed in the sets. The kernel has written that much and no more, so
 * the library never writes where the kernel would have failed.
 */
static void restore_sets(struct question *q)
{
	for (int i = 0; i < 3; i++)
		for (int word = 0; q->sets[i] && word < (q->highest + NFDBITS - 1) / NFDBITS; word++)
			if (__FDS_BITS(q->sets[i])[word] != __FDS_BITS(&q->asked[i])[word])
				__FDS_BITS(q->sets[i])[word] = __FDS_BITS(&q->asked[i])[word];
}

static int ask_select(struct question *q, const struct timespec *limit, const sigset_t *mask)
{
	REAL(pselect);
	restore_sets(q);
	return real(q->highest, q->sets[0], q->sets[1], q->sets[2], limit, mask);
}

static int ask(struct question *q, const struct timespec *limit, const sigset_t *mask)
{
	REAL(ppoll);
	return q->fds ? real(q->fds, q->count, limit, mask) : ask_select(q, limit, mask);
}

/* All signals are blocked: see fsocket_signals_unblock(). */
static int ask_blocked(struct question *q, const struct timespec *limit, const sigset_t *mask,
		       sigset_t *own)
{
	int count;

	pthread_cleanup_push(fsocket_signals_unblock, own);
	count = ask(q, limit, mask);
	pthread_cleanup_pop(false);
	return count;
}

/* Nothing is ready: reports the listeners whose members have connections that nobody takes. */
static int look(struct question *q)
{
	int found = 0;

	looked = fsocket_now_ms();
	for (unsigned int i = 0; q->fds && i < q->count; i++) {
		struct pollfd *p = &q->fds[i];

		if (p->events & READABLE && group_at(p->fd) && overdue(group_at(p->fd))) {
			p->revents = p->events & READABLE;
			found++;
		}
	}
	for (int fd = 0; !q->fds && fd < q->highest; fd++) {
		if (FD_ISSET(fd, &q->asked[0]) && group_at(fd) && overdue(group_at(fd))) {
			FD_SET(fd, q->sets[0]);
			found++;
		}
	}
	return found;
}

/* A limit below 0 is none. Stores in *limit what is left of it. */
static int wait(struct question *q, int64_t *limit, const sigset_t *mask)
{
	int64_t until = fsocket_now_ns() + *limit, every = LATE_MS * 1000000LL, part;
	sigset_t own;
	int count, saved;

	fsocket_signals_block(&own);
	for (;;) {
		part = *limit >= 0 && *limit < every ? *limit : every;
		count = ask_blocked(q, &(struct timespec){ part / 1000000000, part % 1000000000 },
				    mask ? mask : &own, &own);
		saved = errno;
		if (*limit >= 0)
			*limit = until > fsocket_now_ns() ? until - fsocket_now_ns() : 0;
		if (!count && (part == every || fsocket_now_ms() - looked >= 10 * LATE_MS))
			count = look(q);
		if (count || !*limit)
			break;
		every = 10 * LATE_MS * 1000000LL;
	}
	fsocket_signals_unblock(&own);
	errno = saved;
	return count;
}

static int64_t nanoseconds(const struct timespec *t)
{
	return t ? t->tv_sec * 1000000000LL + t->tv_nsec : -1;
}

int fsocket_bystander_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	struct question q = { .fds = fds, .count = count };
	int64_t limit = timeout < 0 ? -1 : timeout * 1000000LL;

	return wait(&q, &limit, NULL);
}

int fsocket_bystander_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout,
			    const sigset_t *mask)
{
	struct question q = { .fds = fds, .count = count };
	int64_t limit = nanoseconds(timeout);

	return wait(&q, &limit, mask);
}

int fsocket_bystander_pselect(int highest, fd_set *readable, fd_set *writable, fd_set *others,
			      const struct timespec *timeout, const sigset_t *mask)
{
	struct question q = { .highest = highest, .sets = { readable, writable, others } };
	int64_t limit = nanoseconds(timeout);

	note_sets(&q);
	return wait(&q, &limit, mask);
}

/* Linux stores the time that is left. */
int fsocket_bystander_select(int highest, fd_set *readable, fd_set *writable, fd_set *others,
			     struct timeval *timeout)
{
	struct question q = { .highest = highest, .sets = { readable, writable, others } };
	int64_t limit = timeout ? timeout->tv_sec * 1000000000LL + timeout->tv_usec * 1000LL : -1;
	int count;

	note_sets(&q);
	count = wait(&q, &limit, NULL);
	/* In a constant the kernel stores nothing, and the call succeeds. */
	if (timeout && fsocket_writable(timeout, sizeof(*timeout)))
		*timeout = (struct timeval){ limit / 1000000000, limit % 1000000000 / 1000 };
	return count;
}
