// SPDX-License-Identifier: GPL-2.0-only
/*
 * Preloaded, it lets one call for memory fail, whose number from 1 on is in $FAIL_AT,
 * and then makes the file $FAIL_MARK.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);

static long left;

__attribute__((constructor)) static void begin(void)
{
	const char *at = getenv("FAIL_AT");

	left = at ? atol(at) : 0;
	/* Children count their own calls. */
	unsetenv("LD_PRELOAD");
}

static bool fails(void)
{
	if (!left || --left)
		return false;
	close(open(getenv("FAIL_MARK"), O_WRONLY | O_CREAT, 0600));
	errno = ENOMEM;
	return true;
}

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	return fails() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
	return fails() ? NULL : __libc_realloc(old, size);
}
