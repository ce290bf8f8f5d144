/* SPDX-License-Identifier: GPL-2.0-only */
/* These functions tell which process the library's variables belong to: see process.c. */
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
 * not its descriptors, or this thread does so with the other threads. What it closes stays open
 * there, so it must not change what the library has noted about those descriptors.
 */
bool fsocket_process_borrowed(void);

/*
 * This thread has descriptors of its own beside those that other threads share (apart.c). Then
 * fsocket_process_borrowed() is true, too.
 */
extern __thread bool fsocket_process_apart __attribute__((tls_model("initial-exec")));

/* Returns whether there surely is no other thread. */
bool fsocket_process_alone(void);

#pragma GCC visibility pop

#endif
