/* SPDX-License-Identifier: GPL-2.0-only */
/* Which cache of the slab allocator (SLUB) an address belongs to. */
#ifndef COUNTING_SLABS_H
#define COUNTING_SLABS_H

#include <stdbool.h>
#include <stdint.h>

struct object {
	/* The name of the cache; of merged caches up to three, "or others" */
	const char *cache;
	/* The structure that all objects of the cache are; NULL if they are not known to be any. */
	const char *structure;
	uint64_t offset;
};

/* Reads the list of caches: direct, end, pages and caches are addresses of the kernel's. */
void slabs_find(uint64_t direct, uint64_t end, uint64_t pages, uint64_t caches);
/* Returns false if the page is no slab's, as it never was, or has been freed since. */
bool slabs_object(uint64_t address, struct object *object);
/* Returns false if the address is none of the kernel's descriptions of pages (struct page). */
bool slabs_page(uint64_t address, struct object *object);
/* Returns whether the address is one that the kernel has all memory at. */
bool slabs_direct(uint64_t address);

#endif
