/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counting: what is called for every block and memory access of the guest while it is
 * on. Switching is done by plugin.c, which sees that no vCPU runs meanwhile.
 */
#ifndef COUNTING_COUNTER_H
#define COUNTING_COUNTER_H

#include "qemu.h"

struct settings {
	/* After so many instructions a vCPU's thread lets another run; 0: never. */
	uint64_t quantum;
	/* User addresses, too: for programs that check the counting. */
	bool user;
};

bool counter_make(unsigned int vcpus);
/* All from nothing, with these settings. */
void counter_start(const struct settings *settings);
void counter_stop(void);
/* Counts from 0 again, while it goes on; who has which line stays known. */
void counter_zero(void);
/* False, and errno, if the file cannot be written. */
bool counter_dump(const char *path);

/* Called by QEMU as it translates a block. */
void counter_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);

#endif
