// SPDX-License-Identifier: GPL-2.0-only
#include "context.h"
#include "table.h"

#include <string.h>
#include <sys/mman.h>

/* The kernel's stacks have 16 KB, and those of tasks are aligned to that. */
#define STACK_SHIFT 14
#define STACKS 1024
#define STACK_FRAMES 62

struct frame {
	uint64_t slot;
	uint64_t context;
};

struct stack {
	uint64_t number;
	uint64_t depth;
	struct frame frames[STACK_FRAMES];
};

/* A context's number is its place in the table. */
struct context {
	uint64_t key;
	uint64_t return_address;
	uint64_t parent;
};

static struct table contexts;

bool context_make(void)
{
	return table_make(&contexts, sizeof(struct context), 21);
}

void context_clear(void)
{
	table_clear(&contexts);
}

uint64_t context_lost(void)
{
	return contexts.lost;
}

bool frames_make(struct frames *frames)
{
	frames->stacks = mmap(NULL, STACKS * sizeof(struct stack), PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return frames->stacks != MAP_FAILED;
}

void frames_clear(struct frames *frames)
{
	madvise(frames->stacks, STACKS * sizeof(struct stack), MADV_DONTNEED);
	frames->context = 0;
}

/* Two stacks with the same place replace each other, which only shortens a chain. */
static struct stack *stack_of(struct frames *frames, uint64_t slot)
{
	uint64_t number = slot >> STACK_SHIFT;
	struct stack *stack = &frames->stacks[mix(number) % STACKS];

	if (stack->number != number) {
		stack->number = number;
		stack->depth = 0;
	}
	/*
	 * Stacks grow down: the functions whose frames are at this address or below have
	 * returned.
	 */
	while (stack->depth && stack->frames[stack->depth - 1].slot <= slot)
		stack->depth--;
	return stack;
}

static uint32_t top(const struct stack *stack)
{
	return stack->depth ? stack->frames[stack->depth - 1].context : 0;
}

/* Returns the place plus 1, since 0 is no context. */
static uint32_t child(uint32_t parent, uint64_t return_address)
{
	uint64_t key = mix(return_address ^ mix(parent)) | 1;
	bool new;
	struct context *context = table_find(&contexts, key, &new);

	if (!context)
		return parent;
	if (new) {
		context->return_address = return_address;
		context->parent = parent;
	}
	return context - (struct context *)contexts.entries + 1;
}

void frames_call(struct frames *frames, uint64_t slot, uint64_t return_address)
{
	struct stack *stack = stack_of(frames, slot);

	frames->context = child(top(stack), return_address);
	/* A chain longer than this keeps its outer end only. */
	if (stack->depth < STACK_FRAMES)
		stack->frames[stack->depth++] = (struct frame){ slot, frames->context };
}

void frames_return(struct frames *frames, uint64_t slot)
{
	frames->context = top(stack_of(frames, slot));
}

void context_dump(FILE *file)
{
	for (size_t i = 0; i < table_size(&contexts); i++) {
		const struct context *context = table_entry(&contexts, i);

		if (context->key)
			fprintf(file, "context %zu %llu %llx\n", i + 1,
				(unsigned long long)context->parent,
				(unsigned long long)context->return_address);
	}
}
