// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads with a table of descriptors of their own, by unshare(CLONE_FILES) or by close_range()
 * with CLOSE_RANGE_UNSHARE. What the library notes is about the numbers of the table that the
 * others go on sharing. So such a thread runs as without the library, and so do the threads that it
 * starts, which share its table.
 *
 * While there is no other thread, nobody uses the old table, and the notes are about the new one.
 */
#include <errno.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <threads.h>

#include "device.h"
#include "kernel.h"
#include "process.h"
#include "real.h"

/*
 * This thread may be about to get a table of its own. Returns whether others stay behind, after it
 * has given up its members while it has their numbers for sure. Then left() has to follow.
 */
static bool leave(void)
{
	if (fsocket_device_confined() || fsocket_process_borrowed() || fsocket_process_alone())
		return false;
	fsocket_worker_leave();
	fsocket_group_leave();
	return true;
}

static void left(bool apart)
{
	fsocket_process_apart = apart;
	fsocket_group_left(apart);
}

int unshare(int flags)
{
	bool apart = flags & CLONE_FILES && leave();
	int ret;

	REAL(unshare);
	ret = real(flags);
	if (apart)
		left(!ret);
	return ret;
}

void fsocket_apart_range(unsigned int first, unsigned int last)
{
	if (first > last || !leave())
		return;
	/*
	 * This range is beyond all numbers. A filter that allows what the program is about to call
	 * allows this, too.
	 */
	left(!RAW3(SYS_close_range, ~0U, ~0U, CLOSE_RANGE_UNSHARE));
}

struct start {
	void *(*function)(void *arg);
	thrd_start_t other;
	void *arg;
};

static struct start begin(void *arg)
{
	struct start s = *(struct start *)arg;

	free(arg);
	fsocket_process_apart = true;
	return s;
}

static void *start_thread(void *arg)
{
	struct start s = begin(arg);

	return s.function(s.arg);
}

static int start_other(void *arg)
{
	struct start s = begin(arg);

	return s.other(s.arg);
}

int fsocket_apart_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
				 void *(*function)(void *), void *arg)
{
	struct start *s = malloc(sizeof(*s));
	int ret;

	REAL(pthread_create);
	if (!s)
		return EAGAIN;
	*s = (struct start){ .function = function, .arg = arg };
	ret = real(thread, attributes, start_thread, s);
	if (ret)
		free(s);
	return ret;
}

int fsocket_apart_thrd_create(thrd_t *thread, thrd_start_t function, void *arg)
{
	struct start *s = malloc(sizeof(*s));
	int ret;

	REAL(thrd_create);
	if (!s)
		return thrd_nomem;
	*s = (struct start){ .other = function, .arg = arg };
	ret = real(thread, start_other, s);
	if (ret != thrd_success)
		free(s);
	return ret;
}
