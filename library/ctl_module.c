// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads what the module exports: its parameters in sysfs, their descriptions by modinfo,
 * /proc/net/fastsocket and /proc/net/fastsocket_listeners. The names of parameters and
 * counters come from there; this program knows none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define MODULE		"/sys/module/fastsocket"
#define COUNTERS	"/proc/net/fastsocket"
#define LISTENERS	"/proc/net/fastsocket_listeners"

bool module_loaded(void)
{
	return !access(COUNTERS, F_OK);
}

void module_required(void)
{
	if (!module_loaded())
		ctl_fail(CTL_FAILED, MODULE_MISSING);
}

/*
 * Returns lines "NAME:MEANING". modinfo reads the installed module, which is assumed to be
 * the loaded one.
 */
static const char *descriptions(void)
{
	static char *text;

	if (!text)
		text = ctl_output("modinfo -F parm fastsocket");
	return text ? text : "";
}

char *module_meaning(const char *parameter)
{
	size_t length = strlen(parameter);
	const char *line = descriptions();

	while (line) {
		if (!strncmp(line, parameter, length) && line[length] == ':')
			return ctl_format("%.*s", (int)strcspn(line + length + 1, "\n"),
					  line + length + 1);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct parameter *)a)->name, ((const struct parameter *)b)->name);
}

struct parameter *module_parameters(int *count)
{
	DIR *dir = ctl_opendir(MODULE "/parameters");
	struct parameter *list = NULL;
	struct dirent *entry;

	*count = 0;
	if (!dir)
		ctl_fail(CTL_FAILED, MODULE "/parameters: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		list = ctl_alloc(list, (*count + 1) * sizeof(*list));
		list[*count].name = ctl_format("%s", entry->d_name);
		list[*count].value = ctl_readf(MODULE "/parameters/%s", entry->d_name);
		list[*count].meaning = module_meaning(entry->d_name);
		(*count)++;
	}
	closedir(dir);
	if (*count)
		qsort(list, *count, sizeof(*list), by_name);
	return list;
}

static void counters_row(struct counters *c, char *line)
{
	char *word = line, *end;
	int row = c->cpus++;

	c->cpu = ctl_alloc(c->cpu, c->cpus * sizeof(*c->cpu));
	c->values = ctl_alloc(c->values, (size_t)c->cpus * c->columns * sizeof(*c->values));
	for (int i = -1; i < c->columns; i++, word = end) {
		unsigned long long value = strtoull(word, &end, 10);

		if (end == word)
			ctl_fail(CTL_FAILED, COUNTERS " has a row that is too short: %s", line);
		if (i < 0)
			c->cpu[row] = value;
		else
			c->values[(size_t)row * c->columns + i] = value;
	}
}

struct counters *module_counters(void)
{
	struct counters *c = ctl_alloc(NULL, sizeof(*c));
	char *line, *word, *lines, *words;

	module_required();
	memset(c, 0, sizeof(*c));
	c->text = ctl_read(COUNTERS);
	if (!c->text)
		ctl_fail(CTL_FAILED, COUNTERS ": %s", strerror(errno));

	line = strtok_r(c->text, "\n", &lines);
	/* The first word of the header is "cpu", which is no counter. */
	strtok_r(line, " ", &words);
	while ((word = strtok_r(NULL, " ", &words))) {
		c->names = ctl_alloc(c->names, (c->columns + 1) * sizeof(*c->names));
		c->names[c->columns++] = word;
	}
	while ((line = strtok_r(NULL, "\n", &lines)))
		counters_row(c, line);
	return c;
}

void module_counters_free(struct counters *c)
{
	free(c->names);
	free(c->cpu);
	free(c->values);
	free(c->text);
	free(c);
}

unsigned long long module_counter_sum(const struct counters *c, int column)
{
	unsigned long long sum = 0;

	for (int row = 0; row < c->cpus; row++)
		sum += c->values[(size_t)row * c->columns + column];
	return sum;
}

static int by_place(const void *a, const void *b)
{
	const struct listener_row *x = a, *y = b;

	if (x->port != y->port)
		return x->port < y->port ? -1 : 1;
	if (x->inode != y->inode)
		return x->inode < y->inode ? -1 : 1;
	if (x->cpu != y->cpu)
		return x->cpu < y->cpu ? -1 : 1;
	return (x->worker > y->worker) - (x->worker < y->worker);
}

struct listener_row *module_listeners(int *count)
{
	struct listener_row *list = NULL;
	char *text, *line, *rest;

	module_required();
	*count = 0;
	text = ctl_read(LISTENERS);
	if (!text)
		ctl_fail(CTL_FAILED, LISTENERS ": %s: the module that is loaded is older than fsocketctl",
			 strerror(errno));
	strtok_r(text, "\n", &rest);
	while ((line = strtok_r(NULL, "\n", &rest))) {
		struct listener_row *row;
		int fields;

		list = ctl_alloc(list, (*count + 1) * sizeof(*list));
		row = &list[(*count)++];
		row->host = -1;
		fields = sscanf(line, "%lu %u %d %63s %d %d %d %u %u %d", &row->inode, &row->port,
				&row->family, row->address, &row->cpu, &row->attached,
				&row->worker, &row->queued, &row->limit, &row->host);
		/* The loaded module may be older. */
		if (fields < 9)
			ctl_fail(CTL_FAILED, LISTENERS " has a row that is not understood: %s", line);
	}
	free(text);
	if (*count)
		qsort(list, *count, sizeof(*list), by_place);
	return list;
}
