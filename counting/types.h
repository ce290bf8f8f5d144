/* SPDX-License-Identifier: GPL-2.0-only */
/* The types of the running kernel, as its BTF describes them. */
#ifndef COUNTING_TYPES_H
#define COUNTING_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Reads the file, or ends the program with a sentence if it is not usable. */
void types_read(const char *path);
/* Returns false if the kernel has no such structure or member. */
bool types_find(const char *structure, const char *member, size_t *offset);
/* These end the program with a sentence if the kernel has no such structure or member. */
size_t types_size(const char *structure);
size_t types_offset(const char *structure, const char *member);
/* Finds a constant of an enumeration. */
bool types_constant(const char *enumeration, const char *name, uint32_t *value);
/*
 * Returns the structure of a per-CPU variable, or that of the elements of an array, and
 * changes the offset into that in the element; NULL if it is no structure, or is not
 * known.
 */
const char *types_of_per_cpu(const char *variable, size_t *offset);
/*
 * Writes the member at an offset, as "structure.member". Structures larger than a line
 * are searched too, and the innermost one is named. In a union, the first member at the
 * offset is written. Returns false if there is none, as between members.
 */
bool types_member(const char *structure, size_t offset, char *text, size_t room);

#endif
