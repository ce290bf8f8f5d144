/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PORTBITS_H
#define FSOCKET_PORTBITS_H

#include <linux/types.h>

/* Chooses how source ports name CPUs. */
void fsocket_portbits_init(void);

/* Sets @mask to the bits of a port that name a CPU, and returns their value for @cpu. */
u16 fsocket_portbits(unsigned int cpu, u16 *mask);

/* Returns the CPU that @port names; that CPU may not exist. */
unsigned int fsocket_portbits_cpu(u16 port);

/*
 * Returns the length of a row of consecutive ports that name the same CPU. It is a
 * power of two, and rows begin at multiples of it; 65536 if there is one CPU only.
 */
unsigned int fsocket_portbits_block(void);

/* Returns the first port of the row in which @port would be if it named @cpu. */
u16 fsocket_portbits_towards(u16 port, unsigned int cpu);

#endif
