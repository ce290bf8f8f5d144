/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tables to which all vCPUs' threads write at once. They are zeroed memory, of which
 * only touched pages exist, with open addressing; one compare-and-swap takes an entry.
 * Entries are never removed; table_clear() empties the whole table.
 */
#ifndef COUNTING_TABLE_H
#define COUNTING_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An entry begins with its key; a free entry has the key 0. */
struct table {
	char *entries;
	size_t entry_size;
	unsigned int bits;
	/* The number of insertions that found no room; the dump reports it. */
	uint64_t lost;
};

bool table_make(struct table *table, size_t entry_size, unsigned int bits);
void table_clear(struct table *table);

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93;
	return x ^ x >> 32;
}

static inline size_t table_size(const struct table *table)
{
	return (size_t)1 << table->bits;
}

static inline void *table_entry(const struct table *table, size_t index)
{
	return table->entries + index * table->entry_size;
}

/* The hash's lower bits may be badly distributed; this also bounds the search in a full table. */
#define TABLE_PROBES 64

/*
 * Returns the entry of a key, which is not 0, and adds it if there is none; *new tells
 * whether. Returns NULL if there is no room.
 */
static inline void *table_find(struct table *table, uint64_t key, bool *new)
{
	size_t mask = table_size(table) - 1, index = (key * 0x9e3779b97f4a7c15) >> (64 - table->bits);

	*new = false;
	for (int probe = 0; probe < TABLE_PROBES; probe++, index = (index + 1) & mask) {
		uint64_t *entry = table_entry(table, index);
		uint64_t found = __atomic_load_n(entry, __ATOMIC_RELAXED);

		if (found == key)
			return entry;
		if (found)
			continue;
		if (__atomic_compare_exchange_n(entry, &found, key, false,
						__ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
			*new = true;
			return entry;
		}
		if (found == key)
			return entry;
	}
	__atomic_fetch_add(&table->lost, 1, __ATOMIC_RELAXED);
	return NULL;
}

#endif
