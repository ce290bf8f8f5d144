// SPDX-License-Identifier: GPL-2.0-only
/*
 * epoll_pwait2(), whose timeout has nanoseconds. A worker of the kernel backend waits by
 * milliseconds (worker.c), and what is left of the time afterwards is left to the kernel. A signal
 * that comes just between the two does not end the wait, of which less than a millisecond is left.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#include "clock.h"
#include "epoll.h"
#include "kernel.h"
#include "listener.h"
#include "real.h"

#if __GLIBC_PREREQ(2, 35)
#define PAGE 4096
#define NS 1000000000LL

/*
 * Returns whether the kernel would take the timeout. Only the page of the stack that is in use
 * can be read for sure; of other memory the kernel has to say that: it looks at the timeout
 * before it looks at the instance, of which there is none.
 */
static bool valid(const struct timespec *timeout)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0), at = (uintptr_t)timeout;
	struct epoll_event event;

	if (at / PAGE != here / PAGE || at % PAGE > PAGE - sizeof(*timeout))
		return RAW5(SYS_epoll_pwait2, -1, &event, 1, timeout, NULL) == -EBADF;
	return timeout->tv_sec >= 0 && timeout->tv_nsec >= 0 && timeout->tv_nsec < NS;
}

/* Does the call of a worker of the kernel backend; returns false if the caller is none. */
static bool worker_waits(int epfd, struct epoll_event *events, int maxevents,
			 const struct timespec *timeout, const sigset_t *mask, int *count)
{
	int64_t until, left;

	if (!timeout || timeout->tv_sec >= INT_MAX / 1000)
		return fsocket_worker_waits(epfd, events, maxevents, -1, mask, count);
	left = timeout->tv_sec * NS + timeout->tv_nsec;
	until = left % 1000000 ? fsocket_now_ns() + left : 0;
	if (!fsocket_worker_waits(epfd, events, maxevents, left / 1000000, mask, count))
		return false;
	if (*count || !until)
		return true;
	left = until - fsocket_now_ns();
	if (left > 0) {
		struct timespec rest = { .tv_sec = left / NS, .tv_nsec = left % NS };

		REAL(epoll_pwait2);
		*count = fsocket_worker_one_each(epfd, events,
						 real(epfd, events, maxevents, &rest, mask));
	}
	return true;
}

int epoll_pwait2(int epfd, struct epoll_event *events, int maxevents,
		 const struct timespec *timeout, const sigset_t *mask)
{
	int count;

	REAL(epoll_pwait2);
	if (fsocket_leaving >= 0)
		fsocket_listener_retire();
	if (atomic_load_explicit(&fsocket_watch_count, memory_order_relaxed) &&
	    (!timeout || valid(timeout)) &&
	    worker_waits(epfd, events, maxevents, timeout, mask, &count))
		return count;
	fsocket_epoll_settle(epfd);
	return real(epfd, events, maxevents, timeout, mask);
}
#endif
