// SPDX-License-Identifier: GPL-2.0-only
#include "table.h"

#include <sys/mman.h>

bool table_make(struct table *table, size_t entry_size, unsigned int bits)
{
	void *entries = mmap(NULL, entry_size << bits, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (entries == MAP_FAILED)
		return false;
	*table = (struct table){ .entries = entries, .entry_size = entry_size, .bits = bits };
	return true;
}

void table_clear(struct table *table)
{
	/* Returns the memory to the kernel, which provides zeroed pages at the next access. */
	madvise(table->entries, table->entry_size << table->bits, MADV_DONTNEED);
	table->lost = 0;
}
