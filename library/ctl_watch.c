// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl watch prints the counters of each core per second: those of the module or,
 * without the module, the connections that workers of the library's kernel backend have
 * accepted.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ctl.h"

#define MAX_SECONDS 86400

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static const struct slot_seen *slot_before(const struct group_seen *groups, int count,
					   unsigned long inode, int slot)
{
	for (int i = 0; i < count; i++)
		if (groups[i].listener.inode == inode && slot < groups[i].slots)
			return &groups[i].accepted[slot];
	return NULL;
}

/*
 * Adds the connections accepted since the last call; the first call adds those since
 * the servers started.
 */
static void add_accepted(unsigned long long *values, int cpus)
{
	static struct group_seen *before;
	static int before_count;
	struct group_seen *groups;
	int count;

	groups = groups_seen(&count);
	for (int i = 0; i < count; i++)
		for (int slot = 0; slot < groups[i].slots; slot++) {
			const struct slot_seen *s = &groups[i].accepted[slot];
			const struct slot_seen *old = slot_before(before, before_count,
								  groups[i].listener.inode, slot);

			for (int way = 0; way < GROUP_WAYS && s->cpu >= 0 && s->cpu < cpus; way++)
				values[s->cpu * GROUP_WAYS + way] += s->by[way] - (old ? old->by[way] : 0);
		}
	groups_free(before, before_count);
	before = groups;
	before_count = count;
}

/* Returns them in the form of the module's counters, under the same names. */
static struct counters *group_counters(void)
{
	static const char *const names[GROUP_WAYS] = {
		[GROUP_OWN] = "accept_local", [GROUP_SHARED] = "accept_global",
		[GROUP_OTHERS] = "accept_remote",
	};
	static unsigned long long values[CPU_SETSIZE * GROUP_WAYS];
	struct counters *c = ctl_alloc(NULL, sizeof(*c));
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	if (cpus > CPU_SETSIZE)
		cpus = CPU_SETSIZE;
	add_accepted(values, cpus);
	*c = (struct counters){ .columns = GROUP_WAYS, .cpus = cpus };
	c->names = ctl_alloc(NULL, sizeof(names));
	memcpy(c->names, names, sizeof(names));
	c->cpu = ctl_alloc(NULL, cpus * sizeof(*c->cpu));
	for (int cpu = 0; cpu < cpus; cpu++)
		c->cpu[cpu] = cpu;
	c->values = ctl_alloc(NULL, cpus * GROUP_WAYS * sizeof(*values));
	memcpy(c->values, values, cpus * GROUP_WAYS * sizeof(*values));
	return c;
}

static unsigned long long value_of(const struct counters *c, int row, int column)
{
	return c->values[(size_t)row * c->columns + column];
}

/* sock_in_pool may decrease, so the difference is signed. */
static double rate(const struct counters *old, const struct counters *new, int row, int column,
		   double seconds)
{
	return (double)(long long)(value_of(new, row, column) - value_of(old, row, column)) / seconds;
}

static void watch_json(const struct counters *old, const struct counters *new,
		       const cpu_set_t *online, double seconds)
{
	struct json j = { .out = ctl_json_out };
	char cpu[16];

	json_open(&j, NULL, '{');
	json_integer(&j, "time", time(NULL));
	json_decimal(&j, "seconds", seconds);
	json_open(&j, "cpus", '{');
	for (int row = 0; row < new->cpus; row++) {
		if (new->cpu[row] < CPU_SETSIZE && !CPU_ISSET(new->cpu[row], online))
			continue;
		snprintf(cpu, sizeof(cpu), "%d", new->cpu[row]);
		json_open(&j, cpu, '{');
		for (int i = 0; i < new->columns; i++)
			json_decimal(&j, new->names[i], rate(old, new, row, i, seconds));
		json_close(&j, '}', false);
	}
	json_close(&j, '}', false);
	json_close(&j, '}', true);
}

/* Prints only counters that are not 0 since the module was loaded. */
static void watch_table(const struct counters *old, const struct counters *new,
			const cpu_set_t *online, double seconds)
{
	bool *shown = ctl_alloc(NULL, new->columns * sizeof(*shown));
	double *sum = ctl_alloc(NULL, new->columns * sizeof(*sum));

	printf("  cpu");
	for (int i = 0; i < new->columns; i++) {
		sum[i] = 0;
		shown[i] = module_counter_sum(new, i);
		if (shown[i])
			printf("  %6s", new->names[i]);
	}
	for (int row = 0; row < new->cpus; row++) {
		bool line = new->cpu[row] >= CPU_SETSIZE || CPU_ISSET(new->cpu[row], online);

		if (line)
			printf("\n%5d", new->cpu[row]);
		for (int i = 0; i < new->columns; i++) {
			double value = rate(old, new, row, i, seconds);

			sum[i] += value;
			if (line && shown[i])
				printf("  %*.0f", (int)strlen(new->names[i]) < 6 ? 6 :
				       (int)strlen(new->names[i]), value);
		}
	}
	printf("\n  all");
	for (int i = 0; i < new->columns; i++)
		if (shown[i])
			printf("  %*.0f", (int)strlen(new->names[i]) < 6 ? 6 :
			       (int)strlen(new->names[i]), sum[i]);
	printf("\n\n");
	free(shown);
	free(sum);
}

int ctl_watch(char **argv)
{
	struct counters *(*look)(void) = module_loaded() ? module_counters : group_counters;
	struct counters *old, *new;
	double then, now;
	long interval = 1;
	cpu_set_t online;

	if (argv[0]) {
		char *end;

		interval = strtol(argv[0], &end, 10);
		if (argv[0][0] < '0' || argv[0][0] > '9' || *end || interval < 1 ||
		    interval > MAX_SECONDS)
			ctl_fail(CTL_USAGE, "%s: not a number of seconds: give a whole one from 1 to %d",
				 argv[0], MAX_SECONDS);
		ctl_no_arguments(argv + 1, "watch, but for SECONDS,");
	}
	groups_required();
	old = look();
	then = seconds_now();
	for (;;) {
		sleep(interval);
		new = look();
		now = seconds_now();
		ctl_cpus_online(&online);
		/* Another version of the module, with other counters, may have been loaded. */
		if (new->columns == old->columns && new->cpus == old->cpus)
			(ctl_json ? watch_json : watch_table)(old, new, &online, now - then);
		if (fflush(stdout))
			ctl_fail(CTL_FAILED, "standard output: %s", strerror(errno));
		module_counters_free(old);
		old = new;
		then = now;
	}
}
