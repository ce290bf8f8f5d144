/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A table that says to which CPU a flow belongs, by the hash of its connection
 * (sk_hash, or the hash in struct fastsocket_flow). It has no locks. A later flow takes
 * the place of an earlier one whose hash has the same lower bits. All 32 bits of the
 * hash are compared, so a lookup finds another flow's entry once in four thousand
 * million, which costs locality and nothing else.
 */
#ifndef FSOCKET_FLOWMAP_H
#define FSOCKET_FLOWMAP_H

#include <linux/mm.h>
#include <linux/types.h>

/* The number of entries, a power of two; the table takes 256 KiB. */
#define FSOCKET_FLOWMAP_SIZE	65536

/* An entry has the hash's upper bits, and the CPU + 1 in its lower 16; 0 is an empty entry. */
static inline u32 *fsocket_flowmap_alloc(void)
{
	return kvcalloc(FSOCKET_FLOWMAP_SIZE, sizeof(u32), GFP_KERNEL);
}

static inline void fsocket_flowmap_set(u32 *map, u32 hash, unsigned int cpu)
{
	u32 *entry = &map[hash & (FSOCKET_FLOWMAP_SIZE - 1)];
	u32 value = (hash & ~(FSOCKET_FLOWMAP_SIZE - 1)) | (cpu + 1);

	if (READ_ONCE(*entry) != value)
		WRITE_ONCE(*entry, value);
}

/* Returns the CPU of the flow with @hash; -1 if none is known. */
static inline int fsocket_flowmap_get(const u32 *map, u32 hash)
{
	u32 entry = READ_ONCE(map[hash & (FSOCKET_FLOWMAP_SIZE - 1)]);

	if ((entry ^ hash) & ~(FSOCKET_FLOWMAP_SIZE - 1))
		return -1;
	return (int)(entry & (FSOCKET_FLOWMAP_SIZE - 1)) - 1;
}

#endif
