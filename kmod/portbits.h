/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PORTBITS_H
#define FSOCKET_PORTBITS_H

#include <linux/types.h>

/* Chooses how source ports name CPUs. */
void fsocket_portbits_init(void);

/* The bits of a port that name a CPU: which (@mask), and what they are for @cpu. */
u16 fsocket_portbits(unsigned int cpu, u16 *mask);

/* The CPU that @port names; maybe one that does not exist. */
unsigned int fsocket_portbits_cpu(u16 port);

/*
 * How many ports in a row name the same CPU: a power of two, of which such rows
 * are multiples; 65536 if there is but one CPU.
 */
unsigned int fsocket_portbits_block(void);

/* The first port of the row that @port would be in if it named @cpu. */
u16 fsocket_portbits_towards(u16 port, unsigned int cpu);

#endif
