/* SPDX-License-Identifier: GPL-2.0-only */
/* Which process the library's variables belong to: see process.c. */
#ifndef FSOCKET_PROCESS_H
#define FSOCKET_PROCESS_H

#include <stdbool.h>

#pragma GCC visibility push(hidden)

/* The library has variables that are about this process from now on. */
void fsocket_process_note(void);

/*
 * The function will be called in each copy of this process that has its own memory, at the latest
 * when that asks fsocket_process_borrowed().
 */
void fsocket_process_at_copy(void (*function)(void));

/*
 * Returns whether this process is a child that shares the memory of its parent (vfork()), but
 * not its descriptors. What it closes stays open in the parent, so it must not change what the
 * library has noted about the parent's descriptors.
 */
bool fsocket_process_borrowed(void);

#pragma GCC visibility pop

#endif
