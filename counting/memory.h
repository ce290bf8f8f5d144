/* SPDX-License-Identifier: GPL-2.0-only */
/* The memory of the running kernel, by its own addresses. */
#ifndef COUNTING_MEMORY_H
#define COUNTING_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens /proc/kcore, or ends the program with a sentence if it is not usable. */
void memory_open(const char *path);
/* Returns false if the kernel says nothing of this memory. */
bool memory_read(uint64_t address, void *to, size_t size);

#endif
