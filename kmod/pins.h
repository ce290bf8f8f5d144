/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PINS_H
#define FSOCKET_PINS_H

#include <linux/cpumask.h>

struct task_struct;

int fsocket_pins_init(void);
void fsocket_pins_exit(void);

/*
 * Pins @task, a worker, to @cpu, which has to be one that it may use. Each call is
 * undone by one of fsocket_unpin(). May sleep. Returns 0, or -ENOMEM, or what
 * set_cpus_allowed_ptr() says.
 */
int fsocket_pin(struct task_struct *task, int cpu);

/*
 * With the last pin of @task goes the restriction: it may use again what it might
 * before, unless somebody else has changed that in between.
 */
void fsocket_unpin(struct task_struct *task);

/* The CPUs that current may use as far as the module is not concerned. */
void fsocket_pins_allowed(struct cpumask *allowed);

#endif
