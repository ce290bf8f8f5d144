// SPDX-License-Identifier: GPL-2.0-only
/*
 * The process to which the library's variables belong. A child of fork() has a copy of them,
 * which is its own; a child of vfork() uses those of its parent until it runs a program or ends.
 *
 * The number of the owner is in memory that the kernel clears in every copy of the process. So
 * the library also notices copies that are made by a system call without the C library, in which
 * no function of pthread_atfork() is called.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process.h"
#include "real.h"

#define MAX_FUNCTIONS 4

__thread bool fsocket_process_apart __attribute__((tls_model("initial-exec")));

/* 0 in a copy that has not been noticed yet. */
static pid_t *_Atomic owner;
static void (*_Atomic functions[MAX_FUNCTIONS])(void);
static atomic_int count;

static void copied(void)
{
	*owner = getpid();
	for (int i = 0; i < MAX_FUNCTIONS; i++)
		if (functions[i])
			functions[i]();
}

void fsocket_process_note(void)
{
	static pid_t unmarked;
	long size = sysconf(_SC_PAGESIZE);
	pid_t *nobody = NULL, *page;

	if (atomic_load(&owner))
		return;
	page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		page = &unmarked;
	else
		madvise(page, size, MADV_WIPEONFORK);
	*page = getpid();
	if (atomic_compare_exchange_strong(&owner, &nobody, page))
		pthread_atfork(NULL, NULL, copied);
	else if (page != &unmarked)
		munmap(page, size);
}

void fsocket_process_at_copy(void (*function)(void))
{
	int i = atomic_fetch_add(&count, 1);

	fsocket_process_note();
	if (i < MAX_FUNCTIONS)
		functions[i] = function;
}

bool fsocket_process_borrowed(void)
{
	if (fsocket_process_apart)
		return true;
	if (!owner)
		return false;
	if (!*owner)
		copied();
	return *owner != getpid();
}

bool fsocket_process_alone(void)
{
	struct stat s;

	/* The folder of threads has a link for each, and two of its own. */
	return !RAW2(SYS_stat, "/proc/self/task", &s) && s.st_nlink == 3;
}
