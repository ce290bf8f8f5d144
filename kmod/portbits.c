// SPDX-License-Identifier: GPL-2.0-only
/*
 * How a source port names the CPU that its connection belongs to.
 *
 * The bits of a port that name the CPU, and a number that is XORed to them, are chosen
 * at random when the module is loaded. Otherwise any sender could aim packets at one
 * CPU.
 */
#include <linux/bitops.h>
#include <linux/cpumask.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/random.h>

#include "portbits.h"

/* The bits among which to choose: those that differ in any usual range of ports. */
#define FSOCKET_PORT_BITS	14

/*
 * The bits that name the CPU, from its lowest to its highest; and the number that is
 * XORed to them.
 */
static unsigned int fsocket_bits[FSOCKET_PORT_BITS], fsocket_nbits;
static unsigned int fsocket_turn;

void fsocket_portbits_init(void)
{
	unsigned int mask = 0, bit, i;

	fsocket_nbits = min_t(unsigned int, FSOCKET_PORT_BITS,
			      ilog2(roundup_pow_of_two(nr_cpu_ids)));
	while (hweight16(mask) < fsocket_nbits)
		mask |= BIT(reciprocal_scale(get_random_u32(), FSOCKET_PORT_BITS));
	for (bit = 0, i = 0; bit < FSOCKET_PORT_BITS; bit++) {
		if (mask & BIT(bit))
			fsocket_bits[i++] = bit;
	}
	fsocket_turn = get_random_u32() & (BIT(fsocket_nbits) - 1);
}

unsigned int fsocket_portbits_cpu(u16 port)
{
	unsigned int i, cpu = fsocket_turn;

	for (i = 0; i < fsocket_nbits; i++)
		cpu ^= (port >> fsocket_bits[i] & 1) << i;
	return cpu;
}

unsigned int fsocket_portbits_block(void)
{
	return fsocket_nbits ? BIT(fsocket_bits[0]) : 65536;
}

u16 fsocket_portbits_towards(u16 port, unsigned int cpu)
{
	unsigned int i, bit;

	port &= ~(fsocket_portbits_block() - 1);
	for (i = 0; i < fsocket_nbits; i++) {
		bit = BIT(fsocket_bits[i]);
		if ((cpu ^ fsocket_turn) >> i & 1)
			port |= bit;
		else
			port &= ~bit;
	}
	return port;
}

u16 fsocket_portbits(unsigned int cpu, u16 *mask)
{
	unsigned int i;

	for (*mask = 0, i = 0; i < fsocket_nbits; i++)
		*mask |= BIT(fsocket_bits[i]);
	return fsocket_portbits_towards(0, cpu);
}
