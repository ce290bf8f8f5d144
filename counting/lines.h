/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who has a copy of which cache line. Every vCPU has a cache of infinite size with MESI
 * states: what is counted is communication, never capacity.
 */
#ifndef COUNTING_LINES_H
#define COUNTING_LINES_H

#include <stdbool.h>
#include <stdint.h>

#define LINE_SHIFT 6
/* Bits of a line's state: a vCPU has a copy; and the one that has it has modified it. */
#define LINES_MAX_VCPUS 62
#define LINE_MODIFIED (1ull << 63)

enum access {
	ACCESS_HIT,	/* Ours already; or nobody had it. */
	ACCESS_DIRTY,	/* Another vCPU has modified it: the line is moved. */
	ACCESS_INVALIDATE, /* A write to what others share: their copies are taken. */
	ACCESS_CLEAN,	/* A read of what others have unmodified: a copy. */
	ACCESS_KINDS,
};

bool lines_make(void);
void lines_clear(void);
uint64_t lines_lost(void);

/* The state of a line, NULL when the table is full. */
uint64_t *lines_state(uint64_t line);

/* Whether the access would be a hit, and change nothing. */
static inline bool lines_has(uint64_t state, unsigned int vcpu, bool write)
{
	uint64_t me = 1ull << vcpu;

	return write ? state == (me | LINE_MODIFIED) : state & me;
}

/* Takes the access into account, and says what it was. */
enum access lines_access(uint64_t *state, unsigned int vcpu, bool write);

#endif
