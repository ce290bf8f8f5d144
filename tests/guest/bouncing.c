// SPDX-License-Identifier: GPL-2.0-only
/*
 * Moves cache lines between cores a known number of times, for the test of counting/:
 *
 *	bouncing shared|padded|false|ticket|ring THREADS ROUNDS
 *
 * Each thread has a core of its own, and all threads do the same number of rounds.
 */
#include <err.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 16

static struct {
	_Alignas(64) atomic_long value;
} apart[MAX_THREADS];
static _Alignas(64) atomic_long together[8];
static _Alignas(64) atomic_long next;
static _Alignas(64) atomic_long serving;
/* All threads begin at once. */
static _Alignas(64) atomic_int missing;
static _Alignas(64) long rounds;
static int threads;
static const char *kind;

static void ticket(void)
{
	long mine = atomic_fetch_add(&next, 1);

	while (atomic_load(&serving) != mine)
		;
	atomic_store(&serving, mine + 1);
}

/* The line holds the number of the thread whose turn it is; only that thread writes. */
static void ring(long self)
{
	while (atomic_load(&serving) % threads != self)
		;
	atomic_fetch_add(&serving, 1);
}

static void *run(void *data)
{
	long self = (long)data;
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(self, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		err(1, "CPU %ld", self);
	atomic_fetch_sub(&missing, 1);
	while (atomic_load(&missing))
		;
	for (long i = 0; i < rounds; i++) {
		if (!strcmp(kind, "shared"))
			atomic_fetch_add(&together[0], 1);
		else if (!strcmp(kind, "false"))
			atomic_fetch_add(&together[self % 8], 1);
		else if (!strcmp(kind, "padded"))
			atomic_fetch_add(&apart[self].value, 1);
		else if (!strcmp(kind, "ticket"))
			ticket();
		else
			ring(self);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t ids[MAX_THREADS];

	if (argc != 4)
		errx(2, "usage: bouncing KIND THREADS ROUNDS");
	kind = argv[1];
	threads = atoi(argv[2]);
	rounds = atol(argv[3]);
	if (threads < 1 || threads > MAX_THREADS)
		errx(2, "1 to %d threads", MAX_THREADS);
	missing = threads;
	for (long i = 0; i < threads; i++)
		if (pthread_create(&ids[i], NULL, run, (void *)i))
			errx(1, "no thread");
	for (int i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
