/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * By which calls the kernel came to where it is. A call stores the return address on
 * the stack, and the address of that store is known: frames are kept by it, for each
 * stack and vCPU, so that interrupts, switches of tasks and of stacks lead nowhere
 * wrong. A chain of return addresses has a number, its context; 0 is none.
 */
#ifndef COUNTING_CONTEXT_H
#define COUNTING_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct stack;

/* Of one vCPU, whose thread alone touches it. */
struct frames {
	uint32_t context;
	struct stack *stacks;
};

bool context_make(void);
bool frames_make(struct frames *frames);
/* No vCPU runs meanwhile. */
void context_clear(void);
void frames_clear(struct frames *frames);

/* A call stored its return address at this address of the stack. */
void frames_call(struct frames *frames, uint64_t slot, uint64_t return_address);
/* A return took its address from there. */
void frames_return(struct frames *frames, uint64_t slot);

/* Lines "context NUMBER PARENT RETURN_ADDRESS". */
void context_dump(FILE *file);
uint64_t context_lost(void);

#endif
