/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The clock of the library's stamps, by which it finds late workers; fsocketctl reads
 * the stamps, too.
 */
#ifndef FSOCKET_CLOCK_H
#define FSOCKET_CLOCK_H

#include <time.h>

/* Milliseconds since some moment in the past; behind by up to a tick of the kernel. */
static inline long fsocket_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000;
}

/* Returns a monotonic time in nanoseconds, exactly. */
static inline long long fsocket_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

#endif
