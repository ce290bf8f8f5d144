// SPDX-License-Identifier: GPL-2.0-only
/*
 * The process to which the library's variables belong. A child of fork() has a copy of them,
 * which is its own; a child of vfork() uses those of its parent until it runs a program or ends.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "process.h"

static pid_t owner;

static void in_child(void)
{
	owner = getpid();
}

void fsocket_process_note(void)
{
	static atomic_bool noted;

	if (atomic_exchange(&noted, true))
		return;
	owner = getpid();
	pthread_atfork(NULL, NULL, in_child);
}

bool fsocket_process_borrowed(void)
{
	return owner && owner != getpid();
}
