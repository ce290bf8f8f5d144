// SPDX-License-Identifier: GPL-2.0-only
#include "symbols.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbol {
	uint64_t address;
	const char *name;
};

struct list {
	struct symbol *symbols;
	size_t n, room;
};

/* Apart from hash tables, no variable that moves between cores is larger. */
#define DATA_LIMIT 65536
/* Symbols of per-CPU variables are offsets from 0, and below this. */
#define PER_CPU_LIMIT (1ull << 31)

static struct list text, data, per_cpu;

static void add(struct list *list, uint64_t address, const char *name)
{
	if (list->n == list->room) {
		list->room = list->room ? 2 * list->room : 65536;
		list->symbols = reallocarray(list->symbols, list->room, sizeof(*list->symbols));
		if (!list->symbols)
			err(1, "symbols");
	}
	list->symbols[list->n].address = address;
	list->symbols[list->n++].name = name;
}

static int compare(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static void sort(struct list *list)
{
	size_t i = 1;

	while (i < list->n && list->symbols[i - 1].address <= list->symbols[i].address)
		i++;
	if (i >= list->n)
		return;
	qsort(list->symbols, list->n, sizeof(*list->symbols), compare);
}

static char *content(const char *path)
{
	FILE *file = fopen(path, "r");
	size_t room = 8 << 20, n = 0, got;
	char *to = malloc(room);

	if (!file)
		err(1, "%s", path);
	while (to && (got = fread(to + n, 1, room - n - 1, file)) > 0) {
		n += got;
		if (n == room - 1)
			to = realloc(to, room *= 2);
	}
	if (!to || ferror(file))
		err(1, "%s", path);
	fclose(file);
	to[n] = 0;
	return to;
}

/* strtoull() would take a third of the time, which matters for names.c on an emulated CPU. */
static uint64_t hexadecimal(char **at)
{
	uint64_t value = 0;

	for (;; ++*at) {
		char c = **at;

		if (c >= '0' && c <= '9')
			value = value << 4 | (c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (c - 'a' + 10);
		else
			return value;
	}
}

/* Reads "ADDRESS TYPE NAME", after which the name of a module may follow. */
static void read_line(char *line)
{
	char *end = line;
	uint64_t address = hexadecimal(&end);
	struct list *list;

	if (end == line || *end != ' ' || !end[1] || end[2] != ' ')
		return;
	if (address >> 63)
		list = strchr("tTwW", end[1]) ? &text : &data;
	else if (address < PER_CPU_LIMIT)
		list = &per_cpu;
	else
		return;
	line = end + 3;
	for (end = line; *end > ' '; end++)
		;
	*end = 0;
	add(list, address, line);
}

void symbols_read(const char *path)
{
	/* The names stay where they are. */
	char *rest = content(path), *line;

	while ((line = strsep(&rest, "\n")))
		read_line(line);
	if (!data.n)
		errx(1, "%s: it has no addresses: read the guest's /proc/kallsyms as root", path);
	sort(&text);
	sort(&data);
	sort(&per_cpu);
}

static const struct symbol *find(const struct list *list, uint64_t address)
{
	size_t low = 0, high = list->n;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (list->symbols[middle].address <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &list->symbols[low - 1] : NULL;
}

const char *symbols_function(uint64_t address)
{
	const struct symbol *symbol = find(&text, address);

	return symbol ? symbol->name : "?";
}

const char *symbols_data(uint64_t address, uint64_t *offset)
{
	/* A line may begin before its only variable. */
	const struct symbol *symbol = find(&data, address + 63);

	if (!symbol || symbol->address + DATA_LIMIT < address)
		return NULL;
	*offset = symbol->address > address ? 0 : address - symbol->address;
	return symbol->name;
}

static const char *variable(const struct list *list, uint64_t address, uint64_t *begin)
{
	const struct symbol *symbol = find(list, address);

	if (!symbol || symbol->address + DATA_LIMIT < address)
		return NULL;
	*begin = symbol->address;
	return symbol->name;
}

const char *symbols_variable(uint64_t address, uint64_t *begin)
{
	return variable(&data, address, begin);
}

const char *symbols_per_cpu(uint64_t address, uint64_t *begin)
{
	return variable(&per_cpu, address, begin);
}

static bool find_name(const struct list *list, const char *name, uint64_t *address)
{
	for (size_t i = 0; i < list->n; i++)
		if (!strcmp(list->symbols[i].name, name)) {
			*address = list->symbols[i].address;
			return true;
		}
	return false;
}

bool symbols_address(const char *name, uint64_t *address)
{
	return find_name(&data, name, address) || find_name(&per_cpu, name, address);
}
