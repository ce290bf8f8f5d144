/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The vCPUs that have copies of each cache line. Every vCPU has a cache of infinite
 * size with MESI states, so this counts communication and never capacity.
 */
#ifndef COUNTING_LINES_H
#define COUNTING_LINES_H

#include <stdbool.h>
#include <stdint.h>

#define LINE_SHIFT 6
/*
 * A line's state has a bit for each vCPU that has a copy, and one that says that the only
 * copy has been modified.
 */
#define LINES_MAX_VCPUS 62
#define LINE_MODIFIED (1ull << 63)

enum access {
	ACCESS_HIT,	/* the vCPU has the line already, or no vCPU has it */
	ACCESS_DIRTY,	/* another vCPU has modified the line, which moves */
	ACCESS_INVALIDATE, /* a write to a line of which others have copies, which they lose */
	ACCESS_CLEAN,	/* a read of a line that others have unmodified, which copies it */
	ACCESS_KINDS,
};

bool lines_make(void);
void lines_clear(void);
uint64_t lines_lost(void);

/* Returns the state of a line, or NULL when the table is full. */
uint64_t *lines_state(uint64_t line);

/* Returns whether the access would be a hit that leaves the state as it is. */
static inline bool lines_has(uint64_t state, unsigned int vcpu, bool write)
{
	uint64_t me = 1ull << vcpu;

	return write ? state == (me | LINE_MODIFIED) : state & me;
}

/* Changes the state by the access, and returns the kind of access that it was. */
enum access lines_access(uint64_t *state, unsigned int vcpu, bool write);

#endif
