// SPDX-License-Identifier: GPL-2.0-only
/*
 * This file finds out whether a program can accept connections by a function that the library
 * interposes: whether it, or a shared object that it has loaded, imports one. If none does, its
 * accept() is a system call instruction of its own, which the library does not see.
 */
#include <elf.h>
#include <link.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "backend.h"

static const char *const names[] = { "accept", "accept4", "syscall" };

struct tables {
	const ElfW(Sym) *symbols;
	const char *strings;
	const ElfW(Rela) *calls, *others;
	size_t calls_size, others_size;
};

/* The C library has put the addresses where the file has offsets, except in the kernel's vDSO. */
static struct tables tables_of(const struct dl_phdr_info *info)
{
	struct tables t = { 0 };
	const ElfW(Dyn) *d = NULL;

	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
			d = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	for (; d && d->d_tag != DT_NULL; d++) {
		const void *at = (const void *)d->d_un.d_ptr;

		if (d->d_tag == DT_SYMTAB)
			t.symbols = at;
		else if (d->d_tag == DT_STRTAB)
			t.strings = at;
		else if (d->d_tag == DT_JMPREL)
			t.calls = at;
		else if (d->d_tag == DT_PLTRELSZ)
			t.calls_size = d->d_un.d_val;
		else if (d->d_tag == DT_RELA)
			t.others = at;
		else if (d->d_tag == DT_RELASZ)
			t.others_size = d->d_un.d_val;
	}
	return t;
}

static bool any(const struct tables *t, const ElfW(Rela) *relocations, size_t size)
{
	for (size_t i = 0; relocations && i < size / sizeof(*relocations); i++) {
		const ElfW(Sym) *symbol = &t->symbols[ELF64_R_SYM(relocations[i].r_info)];

		for (size_t n = 0; n < sizeof(names) / sizeof(*names); n++)
			if (symbol->st_name && symbol->st_shndx == SHN_UNDEF &&
			    !strcmp(t->strings + symbol->st_name, names[n]))
				return true;
	}
	return false;
}

static int imports_one(struct dl_phdr_info *info, __attribute__((unused)) size_t size,
		       __attribute__((unused)) void *arg)
{
	struct tables t = tables_of(info);

	if (!t.symbols || !t.strings || (uintptr_t)t.symbols < info->dlpi_addr)
		return 0;
	return any(&t, t.calls, t.calls_size) || any(&t, t.others, t.others_size);
}

static atomic_bool imported;

/*
 * While dl_iterate_phdr() runs it holds a lock of the dynamic linker, which fork() does not release
 * in the child (glibc, elf/dl-iteratephdr.c). A child of a program with threads would wait for it
 * for ever, so it has the answer of its parent.
 */
bool fsocket_imports_accept(void)
{
	if (!fsocket_child_of_threads && !atomic_load(&imported))
		atomic_store(&imported, dl_iterate_phdr(imports_one, NULL));
	return atomic_load(&imported);
}
