// SPDX-License-Identifier: GPL-2.0-only
#include "memory.h"

#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int core;
static Elf64_Phdr *parts;
static size_t n_parts;

void memory_open(const char *path)
{
	Elf64_Ehdr header;
	ssize_t size;

	core = open(path, O_RDONLY | O_CLOEXEC);
	if (core < 0)
		err(1, "%s", path);
	if (pread(core, &header, sizeof(header), 0) != sizeof(header))
		err(1, "%s", path);
	n_parts = header.e_phnum;
	parts = calloc(n_parts, sizeof(*parts));
	size = n_parts * sizeof(*parts);
	if (!parts || pread(core, parts, size, header.e_phoff) != size)
		err(1, "%s: its headers", path);
}

bool memory_read(uint64_t address, void *to, size_t size)
{
	for (size_t i = 0; i < n_parts; i++) {
		const Elf64_Phdr *part = &parts[i];

		if (part->p_type != PT_LOAD || address < part->p_vaddr ||
		    address - part->p_vaddr >= part->p_memsz ||
		    size > part->p_memsz - (address - part->p_vaddr))
			continue;
		return pread(core, to, size, part->p_offset + (address - part->p_vaddr)) == (ssize_t)size;
	}
	return false;
}
