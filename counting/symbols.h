/* SPDX-License-Identifier: GPL-2.0-only */
/* The guest's /proc/kallsyms. */
#ifndef COUNTING_SYMBOLS_H
#define COUNTING_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

/* Reads the file, or ends the program with a sentence if it is not usable. */
void symbols_read(const char *path);
/* Returns the function at an address; "?" if none is known. */
const char *symbols_function(uint64_t address);
/* Returns the first variable of the line, and the line's offset in it; NULL if there is none. */
const char *symbols_data(uint64_t address, uint64_t *offset);
/* Returns the variable that has the address, and its beginning; NULL if there is none. */
const char *symbols_variable(uint64_t address, uint64_t *begin);
/* Does the same for a per-CPU variable; its address has no CPU's offset. */
const char *symbols_per_cpu(uint64_t address, uint64_t *begin);
/* Finds a variable by its name. */
bool symbols_address(const char *name, uint64_t *address);

#endif
