// SPDX-License-Identifier: GPL-2.0-only
#include "stats.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "log.h"

static union stats_page *pages;
static int page_count;
/* The counters and the time at the last call of stats_take_rates(). */
static struct stats *previous;
static double previous_time;

static double now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

union stats_page *stats_create(int workers)
{
	pages = mmap(NULL, workers * sizeof(*pages), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	previous = calloc(workers, sizeof(*previous));
	if (pages == MAP_FAILED || !previous)
		fail(1, "no memory for the statistics: %s", strerror(errno));
	page_count = workers;
	previous_time = now_seconds();
	return pages;
}

static struct stats stats_read(int worker)
{
	const struct stats *live = &pages[worker].stats;
	struct stats copy = {
		.accepted = __atomic_load_n(&live->accepted, __ATOMIC_RELAXED),
		.requests = __atomic_load_n(&live->requests, __ATOMIC_RELAXED),
		.responses = __atomic_load_n(&live->responses, __ATOMIC_RELAXED),
		.errors = __atomic_load_n(&live->errors, __ATOMIC_RELAXED),
	};

	return copy;
}

static void stats_sum(struct stats *sum, const struct stats *one)
{
	sum->accepted += one->accepted;
	sum->requests += one->requests;
	sum->responses += one->responses;
	sum->errors += one->errors;
}

static struct stats stats_rate(const struct stats *now, const struct stats *before,
			       double seconds)
{
	struct stats rate = {
		.accepted = (now->accepted - before->accepted) / seconds + 0.5,
		.requests = (now->requests - before->requests) / seconds + 0.5,
		.responses = (now->responses - before->responses) / seconds + 0.5,
		.errors = (now->errors - before->errors) / seconds + 0.5,
	};

	return rate;
}

static void stats_print(FILE *line, const struct stats *stats)
{
	fprintf(line, "accepted=%" PRIu64 " requests=%" PRIu64 " responses=%" PRIu64
		" errors=%" PRIu64, stats->accepted, stats->requests, stats->responses,
		stats->errors);
}

/* Stores the rates of each worker since the last call, and returns their sum. */
static struct stats stats_take_rates(struct stats *rates)
{
	double now = now_seconds(), seconds = now - previous_time;
	struct stats sum = { 0 };

	for (int i = 0; i < page_count; i++) {
		struct stats current = stats_read(i);

		rates[i] = stats_rate(&current, &previous[i], seconds);
		stats_sum(&sum, &rates[i]);
		previous[i] = current;
	}
	previous_time = now;
	return sum;
}

void stats_say_requests(void)
{
	struct stats rates[page_count];

	say("Request/s %8" PRIu64, stats_take_rates(rates).responses);
}

void stats_say_rates(void)
{
	struct stats rates[page_count], sum = stats_take_rates(rates);
	char *text;
	size_t len;
	FILE *line = open_memstream(&text, &len);

	if (!line)
		fail(1, "no memory for the statistics: %s", strerror(errno));
	stats_print(line, &sum);
	for (int i = 0; i < page_count; i++) {
		fprintf(line, " | worker %d: ", i);
		stats_print(line, &rates[i]);
	}
	fclose(line);
	say("stats: %s", text);
	free(text);
}

void stats_say_total(void)
{
	struct stats sum = { 0 };
	char *text;
	size_t len;
	FILE *line = open_memstream(&text, &len);

	if (!line)
		fail(1, "no memory for the statistics: %s", strerror(errno));
	for (int i = 0; i < page_count; i++) {
		struct stats current = stats_read(i);

		stats_sum(&sum, &current);
	}
	stats_print(line, &sum);
	fclose(line);
	say("total: %s", text);
	free(text);
}
