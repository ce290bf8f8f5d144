/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counting: functions that are called for every block and memory access of the guest
 * while counting is on. plugin.c switches it on and off, and ensures that no vCPU runs
 * meanwhile.
 */
#ifndef COUNTING_COUNTER_H
#define COUNTING_COUNTER_H

#include "qemu.h"

struct settings {
	/* The number of instructions after which a vCPU's thread lets another run; 0: never. */
	uint64_t quantum;
	/* Count user addresses, too, for programs that check the counting. */
	bool user;
};

bool counter_make(unsigned int vcpus);
/* Starts to count from 0, with these settings. */
void counter_start(const struct settings *settings);
void counter_stop(void);
/* Sets the counts to 0 and goes on counting; the states of the lines stay known. */
void counter_zero(void);
/* Returns false, with errno, if the file cannot be written. */
bool counter_dump(const char *path);

/* QEMU calls this when it translates a block. */
void counter_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);

#endif
