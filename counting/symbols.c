// SPDX-License-Identifier: GPL-2.0-only
#include "symbols.h"

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct symbol {
	uint64_t address;
	char *name;
};

struct list {
	struct symbol *symbols;
	size_t n, room;
};

/* Except for hash tables, no variable that moves between cores is larger. */
#define DATA_LIMIT 65536

static struct list text, data;

static void add(struct list *list, uint64_t address, const char *name)
{
	if (list->n == list->room) {
		list->room = list->room ? 2 * list->room : 65536;
		list->symbols = reallocarray(list->symbols, list->room, sizeof(*list->symbols));
		if (!list->symbols)
			err(1, "symbols");
	}
	list->symbols[list->n].address = address;
	list->symbols[list->n++].name = strdup(name);
}

static int compare(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static void sort(struct list *list)
{
	qsort(list->symbols, list->n, sizeof(*list->symbols), compare);
}

void symbols_read(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned long long address;
	char line[512], type, name[256];

	if (!file)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%llx %c %255s", &address, &type, name) != 3)
			continue;
		/* Symbols of per-CPU variables are offsets from 0, and no addresses. */
		if (!(address >> 63))
			continue;
		add(strchr("tTwW", type) ? &text : &data, address, name);
	}
	fclose(file);
	if (!text.n)
		errx(1, "%s: it has no addresses: read the guest's /proc/kallsyms as root", path);
	sort(&text);
	sort(&data);
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
