/* SPDX-License-Identifier: GPL-2.0-only */
/* The guest's /proc/kallsyms. */
#ifndef COUNTING_SYMBOLS_H
#define COUNTING_SYMBOLS_H

#include <stdbool.h>
#include <stdint.h>

/* Ends the program, with a sentence, if the file is not usable. */
void symbols_read(const char *path);
/* The function at an address; "?" if none is known. */
const char *symbols_function(uint64_t address);
/* The variable there, and how far into it; NULL if there is none. */
const char *symbols_data(uint64_t address, uint64_t *offset);

#endif
