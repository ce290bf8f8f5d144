// SPDX-License-Identifier: GPL-2.0-only
/*
 * Asks the kernel whether the program's memory can be read or written. A system call with a bad
 * pointer fails with EFAULT, and where the library reads what the call gets, it must not end the
 * program instead.
 *
 * madvise() can populate the page, since Linux 5.14. It refuses bad pointers, but also some mappings
 * of devices. Then rt_sigprocmask() says whether the memory is there: it reads the set of signals
 * before it finds that there is no such operation, and stores the present set if there is no new one.
 * So nothing changes, and filters of system calls allow both, since the C library needs them.
 *
 * Valgrind reports what rt_sigprocmask() reads and the program has not written, such as revents.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "device.h"
#include "memory.h"
#include "real.h"

#define PAGE	4096
#define WORD	8
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

/* The page of the stack that is in use is there. */
static bool on_this_page(uintptr_t at)
{
	return at / PAGE == (uintptr_t)__builtin_frame_address(0) / PAGE;
}

/*
 * A program that has confined itself may not allow the call. At NULL there is no set for it, and no
 * memory of a program.
 */
static bool may_ask(uintptr_t at)
{
	return at >= WORD && !fsocket_device_confined();
}

static bool populates(uintptr_t at, int how)
{
	return !RAW3(SYS_madvise, at & -(uintptr_t)PAGE, PAGE, how);
}

/* Asks about the page, or about the word that has the byte, which is on the same page. */
static bool can_read(uintptr_t at)
{
	if (on_this_page(at))
		return true;
	if (!may_ask(at))
		return false;
	return populates(at, MADV_POPULATE_READ) ||
	       RAW4(SYS_rt_sigprocmask, -1, at & -(uintptr_t)WORD, NULL, WORD) == -EINVAL;
}

static bool can_write(uintptr_t at)
{
	if (!may_ask(at))
		return false;
	return (at % PAGE <= PAGE - WORD && populates(at, MADV_POPULATE_WRITE)) ||
	       !RAW4(SYS_rt_sigprocmask, 0, NULL, at, WORD);
}

size_t fsocket_readable(const void *start, size_t size)
{
	uintptr_t first = (uintptr_t)start, at = first, end;

	/* No memory of a program is there. */
	if (__builtin_add_overflow(first, size, &end))
		return 0;
	for (; at < end; at = (at | (PAGE - 1)) + 1)
		if (!can_read(at))
			return at - first;
	return size;
}

bool fsocket_readable_text(const char *text)
{
	for (;;) {
		size_t left = PAGE - (uintptr_t)text % PAGE;

		if (!fsocket_readable_all(text, left))
			return false;
		if (memchr(text, '\0', left))
			return true;
		text += left;
	}
}

bool fsocket_writable(void *start, size_t size)
{
	uintptr_t first = (uintptr_t)start, last = first + size - WORD, end = last + WORD - 1;

	if (on_this_page(first) && on_this_page(end))
		return true;
	return can_write(first) && (first / PAGE == end / PAGE || can_write(last));
}
