/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_HOTPLUG_H
#define FSOCKET_HOTPLUG_H

#include <linux/types.h>

/* Neither offline nor about to be. */
bool fsocket_cpu_is_here(int cpu);
int fsocket_hotplug_init(void);
void fsocket_hotplug_exit(void);

#endif
