// SPDX-License-Identifier: GPL-2.0-only
#include "events.h"
#include "table.h"

struct event {
	uint64_t key;
	uint64_t instruction;
	uint64_t line;
	uint32_t context;
	uint32_t offset;
	/* Counts by kind; a hit is no event. */
	uint32_t counts[ACCESS_KINDS];
};

static struct table events, blocks;
static unsigned int vcpus;

bool events_make(unsigned int n)
{
	vcpus = n;
	return table_make(&events, sizeof(struct event), 22) &&
	       table_make(&blocks, sizeof(struct block) + n * sizeof(uint64_t), 19);
}

void events_clear(void)
{
	table_clear(&events);
	table_clear(&blocks);
}

void events_zero(void)
{
	for (size_t i = 0; i < table_size(&events); i++) {
		struct event *event = table_entry(&events, i);

		for (int kind = 0; event->key && kind < ACCESS_KINDS; kind++)
			__atomic_store_n(&event->counts[kind], 0, __ATOMIC_RELAXED);
	}
	for (size_t i = 0; i < table_size(&blocks); i++) {
		struct block *block = table_entry(&blocks, i);

		for (unsigned int vcpu = 0; block->key && vcpu < vcpus; vcpu++)
			__atomic_store_n(&block->executed[vcpu], 0, __ATOMIC_RELAXED);
	}
}

uint64_t events_lost(void)
{
	return events.lost + blocks.lost;
}

void events_count(enum access kind, uint32_t context, uint64_t instruction, uint64_t line,
		  unsigned int offset)
{
	bool new;
	struct event *event = table_find(&events, mix(instruction ^ mix(line ^ mix(context))) | 1, &new);

	if (!event)
		return;
	if (new) {
		event->instruction = instruction;
		event->line = line;
		event->context = context;
		event->offset = offset;
	}
	__atomic_fetch_add(&event->counts[kind], 1, __ATOMIC_RELAXED);
}

struct block *events_block(uint64_t address, size_t instructions)
{
	bool new;
	struct block *block = table_find(&blocks, mix(address ^ mix(instructions)) | 1, &new);

	if (block && new) {
		block->address = address;
		block->instructions = instructions;
	}
	return block;
}

static void dump_event(FILE *file, const struct event *event)
{
	const uint32_t *counts = event->counts;

	if (!event->key || !(counts[ACCESS_DIRTY] + counts[ACCESS_INVALIDATE] + counts[ACCESS_CLEAN]))
		return;
	fprintf(file, "event %u %llx %llx %u %u %u %u\n", event->context,
		(unsigned long long)event->instruction, (unsigned long long)event->line,
		counts[ACCESS_DIRTY], counts[ACCESS_INVALIDATE], counts[ACCESS_CLEAN],
		event->offset);
}

void events_dump(FILE *file)
{
	for (size_t i = 0; i < table_size(&events); i++)
		dump_event(file, table_entry(&events, i));
	for (size_t i = 0; i < table_size(&blocks); i++) {
		const struct block *block = table_entry(&blocks, i);
		uint64_t executed = 0;

		for (unsigned int vcpu = 0; block->key && vcpu < vcpus; vcpu++)
			executed += block->executed[vcpu];
		if (executed)
			fprintf(file, "block %llx %llu %llu\n", (unsigned long long)block->address,
				(unsigned long long)block->instructions, (unsigned long long)executed);
	}
}
