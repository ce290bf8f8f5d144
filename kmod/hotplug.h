/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_HOTPLUG_H
#define FSOCKET_HOTPLUG_H

#include <linux/types.h>

/* Returns whether @cpu is online and is not going offline. */
bool fsocket_cpu_is_here(int cpu);
int fsocket_hotplug_init(void);
void fsocket_hotplug_exit(void);

#endif
