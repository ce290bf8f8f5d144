/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is counted: moves of lines, by context, instruction and line; and executions of
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
	/* One of each vCPU, whose thread alone adds to it. */
	uint64_t executed[];
};

bool events_make(unsigned int vcpus);
/* No vCPU runs meanwhile. */
void events_clear(void);
/* Counts from 0 again; what is known stays. */
void events_zero(void);
uint64_t events_lost(void);

void events_count(enum access kind, uint32_t context, uint64_t instruction, uint64_t line);
/* NULL: no room. */
struct block *events_block(uint64_t address, size_t instructions);

/* Lines "event CONTEXT INSTRUCTION LINE DIRTY INVALIDATE CLEAN" and "block ADDRESS INSTRUCTIONS EXECUTED". */
void events_dump(FILE *file);

#endif
