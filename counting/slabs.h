/* SPDX-License-Identifier: GPL-2.0-only */
/* Finds the cache of the slab allocator (SLUB) to which an address belongs. */
#ifndef COUNTING_SLABS_H
#define COUNTING_SLABS_H

#include <stdbool.h>
#include <stdint.h>

struct object {
	/* The name of the cache; of merged caches up to three, "or others" */
	const char *cache;
	/* The structure that all objects of the cache are; NULL if it is not known. */
	const char *structure;
	uint64_t offset;
};

/* Reads the list of caches; direct, end, pages and caches are addresses in the kernel. */
void slabs_find(uint64_t direct, uint64_t end, uint64_t pages, uint64_t caches);
/* Returns false if the page does not belong to a slab, or no longer does. */
bool slabs_object(uint64_t address, struct object *object);
/* Returns false if the address is not in the kernel's descriptions of pages (struct page). */
bool slabs_page(uint64_t address, struct object *object);
/* Returns whether the address is in the kernel's mapping of all memory. */
bool slabs_direct(uint64_t address);

#endif
