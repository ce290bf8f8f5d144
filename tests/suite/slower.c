// SPDX-License-Identifier: GPL-2.0-only
/* A library to preload that wastes INSTRUCTIONS for each accepted connection. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <sys/socket.h>

#ifndef INSTRUCTIONS
#define INSTRUCTIONS 0
#endif

typedef int (*accept4_t)(int, struct sockaddr *, socklen_t *, int);

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
	static accept4_t next;
	long left = INSTRUCTIONS / 2;
	int accepted;

	if (!next)
		next = (accept4_t)dlsym(RTLD_NEXT, "accept4");
	accepted = next(fd, address, length, flags);
	/* Each round has two. */
	if (accepted >= 0 && left > 0)
		__asm__ volatile("1: dec %0; jnz 1b" : "+r"(left));
	return accepted;
}
