/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The chain of calls by which the kernel came to an instruction. A call stores the
 * return address on the stack at a known address. Frames are kept by that address, for
 * each stack and vCPU, so interrupts and switches of tasks and of stacks do no harm. A
 * chain of return addresses has a number, its context; 0 is none.
 */
#ifndef COUNTING_CONTEXT_H
#define COUNTING_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct stack;

/* The frames of one vCPU; only the thread of that vCPU uses them. */
struct frames {
	uint32_t context;
	struct stack *stacks;
};

bool context_make(void);
bool frames_make(struct frames *frames);
/* Called while no vCPU runs. */
void context_clear(void);
void frames_clear(struct frames *frames);

/* A call has stored its return address at the stack address slot. */
void frames_call(struct frames *frames, uint64_t slot, uint64_t return_address);
/* A return has read its address from slot. */
void frames_return(struct frames *frames, uint64_t slot);

/* Writes lines "context NUMBER PARENT RETURN_ADDRESS". */
void context_dump(FILE *file);
uint64_t context_lost(void);

#endif
