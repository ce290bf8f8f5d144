/* SPDX-License-Identifier: GPL-2.0-only */
/* A user who makes the kernel wait while it holds the lock of a socket. */
#ifndef TESTS_GUEST_STUCK_H
#define TESTS_GUEST_STUCK_H

#include <linux/userfaultfd.h>

#include "helpers.h"

struct stuck {
	int fd, fault;
	struct linger *linger;
	int set, spawned;
};

/* An option whose second half is on a page that becomes present when the test says so. */
static inline void make_option(struct stuck *s)
{
	long size = sysconf(_SC_PAGESIZE);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *pages = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(pages, MAP_FAILED);
	pages[size - 1] = 0;
	/* Without O_NONBLOCK, poll() reports an error at once. */
	s->fault = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	assert_ok(s->fault);
	assert_ok(ioctl(s->fault, UFFDIO_API, &api));
	range.range.start = (unsigned long)(pages + size);
	range.range.len = size;
	assert_ok(ioctl(s->fault, UFFDIO_REGISTER, &range));
	s->linger = (void *)(pages + size - offsetof(struct linger, l_linger));
}

static inline void page_comes(struct stuck *s)
{
	struct uffdio_zeropage page = {
		.range.start = (unsigned long)&s->linger->l_linger,
		.range.len = sysconf(_SC_PAGESIZE),
	};

	assert_ok(ioctl(s->fault, UFFDIO_ZEROPAGE, &page));
	close(s->fault);
}

/* The kernel holds the lock of the socket during this call. */
static inline void *sets_option(void *arg)
{
	struct stuck *s = arg;

	s->set = setsockopt(s->fd, SOL_SOCKET, SO_LINGER, s->linger, sizeof(*s->linger));
	return NULL;
}

#endif
