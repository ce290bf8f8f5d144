/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Commands through a Unix socket: each is one line, and the answer is one line, "ok" or
 * "error: …".
 */
#ifndef COUNTING_CONTROL_H
#define COUNTING_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

/* Writes the answer to one command line. */
typedef void (*control_answer_t)(char *line, char *answer, size_t size);

/* Starts a thread that listens; returns false, with errno, if that fails. */
bool control_start(const char *path, control_answer_t answer);

#endif
