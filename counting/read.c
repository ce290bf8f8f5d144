// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes tables of a dump of the plugin:
 *
 *	read DUMP KALLSYMS REQUESTS FOLDER
 *
 * totals.csv, groups.csv, functions.csv, callers.csv and lines.csv in FOLDER; all
 * figures are per request but those of totals.csv that say otherwise. A line has the address in
 * it that is accessed where it moves most often, for names.c.
 */
#include "groups.h"
#include "symbols.h"

#include <err.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHAIN 64

struct context {
	uint64_t parent;
	uint64_t return_address;
};

struct counts {
	double dirty, invalidate, clean, instructions;
};

/* A row of a table: its name, and its counts. */
struct row {
	char *name;
	enum group group;
	struct counts counts;
	const char *function;
	uint64_t address;
	double most;
};

struct table {
	void *tree;
	struct row **rows;
	size_t n;
};

static struct context *contexts;
static size_t n_contexts;
static struct table functions, callers, lines;
static struct counts groups[GROUPS], all;
static double requests, user_instructions, kernel_instructions;
static unsigned long long quantum, lost;
static double seconds;

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

static struct row *row_of(struct table *table, const char *name)
{
	struct row key = { .name = (char *)name }, **found, *row;

	found = tfind(&key, &table->tree, by_name);
	if (found)
		return *found;
	row = calloc(1, sizeof(*row));
	table->rows = reallocarray(table->rows, table->n + 1, sizeof(*table->rows));
	if (!row || !table->rows)
		err(1, "rows");
	row->name = strdup(name);
	table->rows[table->n++] = row;
	tsearch(row, &table->tree, by_name);
	return row;
}

static void add(struct counts *to, const struct counts *what)
{
	to->dirty += what->dirty;
	to->invalidate += what->invalidate;
	to->clean += what->clean;
	to->instructions += what->instructions;
}

static size_t chain_of(uint64_t context, uint64_t instruction, const char **chain)
{
	size_t n = 0;

	chain[n++] = symbols_function(instruction);
	for (; context && context <= n_contexts && n < CHAIN; context = contexts[context - 1].parent)
		/*
		 * Look up an address within the call: the return address may belong to
		 * another function.
		 */
		chain[n++] = symbols_function(contexts[context - 1].return_address - 1);
	return n;
}

static void read_context(const char *line)
{
	unsigned long long number, parent, address;

	if (sscanf(line, "context %llu %llu %llx", &number, &parent, &address) != 3 || !number)
		return;
	if (number > n_contexts) {
		size_t room = number > 2 * n_contexts ? number : 2 * n_contexts;

		contexts = reallocarray(contexts, room, sizeof(*contexts));
		if (!contexts)
			err(1, "contexts");
		memset(contexts + n_contexts, 0, (room - n_contexts) * sizeof(*contexts));
		n_contexts = room;
	}
	contexts[number - 1] = (struct context){ parent, address };
}

static void name_line(unsigned long long line, char *name, size_t size)
{
	uint64_t offset, address = line << 6;
	const char *symbol = NULL;

	/*
	 * Returns whether the address is in the kernel's image or its modules, whose
	 * variables have symbols.
	 */
	if (address >> 31 == 0x1ffffffff)
		symbol = symbols_data(address, &offset);
	if (symbol)
		snprintf(name, size, "%s+%llu", symbol, (unsigned long long)offset);
	else
		snprintf(name, size, "%016llx", (unsigned long long)address);
}

/* Returns whether this place is the row's largest so far, after which the row is named. */
static bool leads(struct row *row, double moves)
{
	if (moves < row->most)
		return false;
	row->most = moves;
	return true;
}

static void read_event(const char *line)
{
	unsigned long long context, instruction, address;
	unsigned int dirty, invalidate, clean, offset;
	const char *chain[CHAIN];
	char name[600];
	struct counts counts;
	enum group group;
	struct row *row;
	size_t n;

	if (sscanf(line, "event %llu %llx %llx %u %u %u %u", &context, &instruction, &address,
		   &dirty, &invalidate, &clean, &offset) != 7)
		errx(1, "the dump has a line that is none: %s", line);
	counts = (struct counts){ dirty, invalidate, clean, 0 };
	n = chain_of(context, instruction, chain);
	group = group_of(chain, n);
	add(&groups[group], &counts);
	add(&all, &counts);
	snprintf(name, sizeof(name), "%s", chain[0]);
	if (group == GROUP_BACKGROUND)
		strcat(name, " (background)");
	row = row_of(&functions, name);
	add(&row->counts, &counts);
	/*
	 * A line that belongs to several groups, depending on the caller, has the group
	 * of its largest place.
	 */
	if (leads(row, dirty + invalidate))
		row->group = group;
	snprintf(name, sizeof(name), "%s", chain[0]);
	for (size_t i = 1; i < n && i < 5; i++)
		snprintf(name + strlen(name), sizeof(name) - strlen(name), " < %s", chain[i]);
	row = row_of(&callers, name);
	row->group = group;
	add(&row->counts, &counts);
	if (group == GROUP_BACKGROUND)
		return;
	name_line(address, name, sizeof(name));
	row = row_of(&lines, name);
	add(&row->counts, &counts);
	/* The row takes its group, function and address from the place that moves the line most often. */
	if (leads(row, dirty + invalidate)) {
		row->group = group;
		row->function = chain[0];
		row->address = (uint64_t)address << 6 | offset;
	}
}

static void read_block(const char *line)
{
	unsigned long long address, length, executed;
	struct row *row;

	if (sscanf(line, "block %llx %llu %llu", &address, &length, &executed) != 3)
		errx(1, "the dump has a line that is none: %s", line);
	if (!(address >> 63))
		return;
	row = row_of(&functions, symbols_function(address));
	if (!row->counts.dirty && !row->counts.invalidate && !row->counts.clean) {
		const char *chain[] = { row->name };

		row->group = group_of(chain, 1);
	}
	row->counts.instructions += (double)length * executed;
}

static void read_dump(const char *path)
{
	FILE *file = fopen(path, "r");
	char line[512];
	unsigned long long kernel, user;
	unsigned int vcpu;

	if (!file)
		err(1, "%s", path);
	if (!fgets(line, sizeof(line), file) || strcmp(line, "counting 2\n"))
		errx(1, "%s: not a dump of this version: count again", path);
	while (fgets(line, sizeof(line), file)) {
		if (!strncmp(line, "event ", 6))
			read_event(line);
		else if (!strncmp(line, "context ", 8))
			read_context(line);
		else if (!strncmp(line, "block ", 6))
			read_block(line);
		else if (sscanf(line, "vcpu %u %llu %llu", &vcpu, &kernel, &user) == 3) {
			kernel_instructions += kernel;
			user_instructions += user;
		} else if (sscanf(line, "quantum %llu", &quantum) != 1 &&
			   sscanf(line, "lost %llu", &lost) != 1)
			sscanf(line, "seconds %lf", &seconds);
	}
	if (strcmp(line, "end\n"))
		errx(1, "%s: it is cut off: count again", path);
	fclose(file);
}

static double transfers(const struct counts *counts)
{
	return counts->dirty + counts->invalidate;
}

static int by_counts(const void *a, const void *b)
{
	const struct row *x = *(struct row *const *)a, *y = *(struct row *const *)b;
	double t = transfers(&y->counts) - transfers(&x->counts);

	if (!t)
		t = y->counts.instructions - x->counts.instructions;
	return t < 0 ? -1 : t > 0 ? 1 : strcmp(x->name, y->name);
}

static FILE *create(const char *folder, const char *name)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = fopen(path, "w");
	if (!file)
		err(1, "%s", path);
	return file;
}

static void finish(FILE *file, const char *name)
{
	int failed = ferror(file);

	if (fclose(file) || failed)
		errx(1, "%s: it cannot be written: is the disk full?", name);
}

static void write_table(const char *folder, const char *file_name, struct table *table,
			const char *what, double least)
{
	FILE *file = create(folder, file_name);

	qsort(table->rows, table->n, sizeof(*table->rows), by_counts);
	fprintf(file, "%s,group,moved_by,transfers,dirty,invalidate,clean_reads,instructions%s\n", what,
		table == &lines ? ",address" : "");
	for (size_t i = 0; i < table->n; i++) {
		const struct row *row = table->rows[i];
		const struct counts *c = &row->counts;

		if (transfers(c) + c->clean + c->instructions < least * requests)
			continue;
		fprintf(file, "%s,%s,%s,%.4f,%.4f,%.4f,%.4f,%.1f", row->name,
			group_names[row->group], row->function ? row->function : "",
			transfers(c) / requests, c->dirty / requests, c->invalidate / requests,
			c->clean / requests, c->instructions / requests);
		if (table == &lines)
			fprintf(file, ",%llx", (unsigned long long)row->address);
		fputc('\n', file);
	}
	finish(file, file_name);
}

static void write_groups(const char *folder)
{
	FILE *file = create(folder, "groups.csv");

	fprintf(file, "group,transfers,dirty,invalidate,clean_reads\n");
	for (int i = 0; i < GROUPS; i++)
		fprintf(file, "%s,%.4f,%.4f,%.4f,%.4f\n", group_names[i],
			transfers(&groups[i]) / requests, groups[i].dirty / requests,
			groups[i].invalidate / requests, groups[i].clean / requests);
	finish(file, "groups.csv");
}

static void write_totals(const char *folder)
{
	FILE *file = create(folder, "totals.csv");
	double moved = 0;

	for (size_t i = 0; i < lines.n; i++)
		moved += transfers(&lines.rows[i]->counts) > 0;
	fprintf(file, "name,value\nquantum,%llu\nrequests,%.0f\nseconds,%.3f\nlost,%llu\n",
		quantum, requests, seconds, lost);
	fprintf(file, "kernel_instructions_per_req,%.1f\nuser_instructions_per_req,%.1f\n",
		kernel_instructions / requests, user_instructions / requests);
	fprintf(file, "line_transfers_per_req,%.4f\nbackground_transfers_per_req,%.4f\n",
		(transfers(&all) - transfers(&groups[GROUP_BACKGROUND])) / requests,
		transfers(&groups[GROUP_BACKGROUND]) / requests);
	fprintf(file, "background_transfers_per_second,%.1f\n",
		seconds > 0 ? transfers(&groups[GROUP_BACKGROUND]) / seconds : 0);
	fprintf(file, "clean_reads_per_req,%.4f\nlines_moved_per_req,%.4f\n",
		(all.clean - groups[GROUP_BACKGROUND].clean) / requests, moved / requests);
	finish(file, "totals.csv");
}

int main(int argc, char **argv)
{
	char *end;

	if (argc != 5)
		errx(2, "usage: %s DUMP KALLSYMS REQUESTS FOLDER", argv[0]);
	requests = strtod(argv[3], &end);
	if (*end || !(requests > 0))
		errx(2, "%s: not a number of requests: give one above 0", argv[3]);
	symbols_read(argv[2]);
	read_dump(argv[1]);
	if (lost)
		warnx("%llu accesses found the plugin's tables full: count a shorter load", lost);
	write_totals(argv[4]);
	write_groups(argv[4]);
	write_table(argv[4], "functions.csv", &functions, "function", 0.001);
	write_table(argv[4], "callers.csv", &callers, "chain", 0.01);
	write_table(argv[4], "lines.csv", &lines, "line", 0.01);
	return 0;
}
