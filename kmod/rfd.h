/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_RFD_H
#define FSOCKET_RFD_H

#include <linux/types.h>

struct sock;

/* Chooses how ports name CPUs. */
void fsocket_rfd_init(void);

/*
 * Applies enable_receive_flow_deliver; process context, one caller at a time.
 * Off always succeeds; on may fail for want of memory.
 */
int fsocket_rfd_enable(bool on);

/* The bits of a port that name a CPU: which (@mask), and what they are for @cpu. */
u16 fsocket_rfd_port_bits(unsigned int cpu, u16 *mask);

/*
 * Gives @sk, an unbound TCP socket about to connect, a source port that names
 * the CPU we are on. False if there is nothing to give or no such port is free:
 * the kernel then chooses.
 */
bool fsocket_rfd_choose_port(struct sock *sk);

/* Takes it back, if the connection attempt has left @sk closed. */
void fsocket_rfd_return_port(struct sock *sk);

/* Counts that the kernel has to choose, as no port for this CPU is free. */
void fsocket_rfd_exhausted(struct sock *sk);

#endif
