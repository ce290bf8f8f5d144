/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The counts: moves of lines, by context, instruction and line; and executions of
 * translation blocks.
 */
#ifndef COUNTING_EVENTS_H
#define COUNTING_EVENTS_H

#include "lines.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct block {
	uint64_t key;
	uint64_t address;
	uint64_t instructions;
	/* A number for each vCPU, to which only the thread of that vCPU adds. */
	uint64_t executed[];
};

bool events_make(unsigned int vcpus);
/* Called while no vCPU runs. */
void events_clear(void);
/* Sets the counts to 0; the blocks and events that are known stay. */
void events_zero(void);
uint64_t events_lost(void);

/* offset: the position of the access in its line; an event keeps the first one. */
void events_count(enum access kind, uint32_t context, uint64_t instruction, uint64_t line,
		  unsigned int offset);
/* Returns NULL if there is no room. */
struct block *events_block(uint64_t address, size_t instructions);

/*
 * Writes lines "event CONTEXT INSTRUCTION LINE DIRTY INVALIDATE CLEAN OFFSET" and "block
 * ADDRESS INSTRUCTIONS EXECUTED".
 */
void events_dump(FILE *file);

#endif
