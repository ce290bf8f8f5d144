/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory that the program names, and which may not be there: see memory.c. */
#ifndef FSOCKET_MEMORY_H
#define FSOCKET_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#pragma GCC visibility push(hidden)

/* Returns how many bytes from start on can be read: all, or those before a page that cannot. */
size_t fsocket_readable(const void *start, size_t size);
/* Returns whether all can be read. */
static inline bool fsocket_readable_all(const void *start, size_t size)
{
	return fsocket_readable(start, size) == size;
}

/* Returns whether a text can be read, with the zero byte at its end. */
bool fsocket_readable_text(const char *text);
/* Returns whether 8 to 4096 bytes can be written, and may change what they are. */
bool fsocket_writable(void *start, size_t size);

#pragma GCC visibility pop

#endif
