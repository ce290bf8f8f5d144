// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of counters that it reads twice, a fifth of a second apart. So events
 * since the boot of the host do not become findings.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define WINDOW_US 200000
/* With fewer connections than this, the counters do not show where they are accepted. */
#define FEW 50

static struct {
	unsigned long long overflows, drops, local, elsewhere, stolen;
} before, now;

/* Returns the value under @name in /proc/net/netstat, whose lines come in pairs. */
static unsigned long long netstat(const char *text, const char *name)
{
	const char *values = text ? strchr(text, '\n') : NULL, *names = text;
	size_t length = strlen(name);
	char *end;

	while (names && values && strncmp(names, name, length)) {
		names = strchr(names, ' ');
		values = strchr(values, ' ');
		names += names ? 1 : 0;
		values += values ? 1 : 0;
	}
	return names && values ? strtoull(values, &end, 10) : 0;
}

static unsigned long long dropped_packets(void)
{
	char *text = ctl_read("/proc/net/softnet_stat"), *line, *rest;
	unsigned long long sum = 0;
	unsigned int dropped;

	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line;
	     line = strtok_r(NULL, "\n", &rest))
		if (sscanf(line, "%*x %x", &dropped) == 1)
			sum += dropped;
	free(text);
	return sum;
}

static unsigned long long counter(const struct counters *c, const char *name)
{
	for (int i = 0; i < c->columns; i++)
		if (!strcmp(c->names[i], name))
			return module_counter_sum(c, i);
	return 0;
}

static void read_groups(void)
{
	struct group_seen *groups;
	int count;

	now.local = 0;
	now.elsewhere = 0;
	now.stolen = 0;
	groups = groups_seen(&count);
	for (int i = 0; i < count; i++)
		for (int slot = 0; slot < groups[i].slots; slot++) {
			const unsigned long long *by = groups[i].accepted[slot].by;

			now.local += by[GROUP_OWN];
			now.elsewhere += by[GROUP_SHARED] + by[GROUP_OTHERS];
			now.stolen += by[GROUP_OTHERS];
		}
	groups_free(groups, count);
}

static void read_all(void)
{
	char *text = ctl_read("/proc/net/netstat");
	struct counters *c;

	now.overflows = netstat(text, "ListenOverflows");
	free(text);
	now.drops = dropped_packets();
	read_groups();
	if (!module_loaded())
		return;
	c = module_counters();
	now.local += counter(c, "accept_local");
	now.elsewhere += counter(c, "accept_global") + counter(c, "accept_remote") +
			 counter(c, "accept_covered");
	now.stolen += counter(c, "stolen");
	module_counters_free(c);
}

/* Fills before and now, once. */
static void look(void)
{
	static bool looked;

	if (looked)
		return;
	looked = true;
	read_all();
	before = now;
	usleep(WINDOW_US);
	read_all();
}

void doctor_overflows(void)
{
	char *limit;

	look();
	if (now.overflows == before.overflows)
		return;
	limit = ctl_read("/proc/sys/net/core/somaxconn");
	doctor_finding("raise the backlog in the server's configuration, and net.core.somaxconn where that is lower; ss -ltn shows each queue (Recv-Q) and its limit (Send-Q)",
		       "an accept queue is full: %llu connections were turned away within a fifth of a second (net.core.somaxconn is %s)",
		       now.overflows - before.overflows, limit ? limit : "not readable");
	free(limit);
}

void doctor_drops(void)
{
	look();
	if (now.drops != before.drops)
		doctor_finding("sysctl -w net.core.netdev_max_backlog=10000; and see whether RPS gives one core the packets of many",
			       "a core's backlog is full: %llu packets were dropped within a fifth of a second",
			       now.drops - before.drops);
}

void doctor_locality(void)
{
	unsigned long long local, all;

	look();
	local = now.local - before.local;
	all = local + now.elsewhere - before.elsewhere;
	if (all >= FEW && local * 10 < all * 9)
		doctor_finding("see the findings on queues, interrupts, workers and pinning; without any, workers are too busy to accept in time: start more, on more cores",
			       "of %llu connections %llu were accepted on the core that received them; %llu had waited too long there and were given to others",
			       all, local, now.stolen - before.stolen);
}
