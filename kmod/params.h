/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PARAMS_H
#define FSOCKET_PARAMS_H

#include <linux/printk.h>

/* Levels of enable_fastsocket_debug; the numbers are the original's. */
#define FSOCKET_ALERT	0
#define FSOCKET_ERR	1
#define FSOCKET_WARNING	2
#define FSOCKET_INFO	3
#define FSOCKET_DEBUG	4

/*
 * Any user can provoke these lines, so they are rate-limited and never of a
 * severity that raises an alarm.
 */
#define fsocket_log(level, fmt, ...)					\
do {									\
	if ((level) < fsocket_debug_level())				\
		pr_info_ratelimited("%s[%d]: " fmt, current->comm,	\
				    task_pid_nr(current), ##__VA_ARGS__); \
} while (0)

enum fsocket_spawn_mode {
	FSOCKET_SPAWN_OFF,
	FSOCKET_SPAWN_PINNED,
	FSOCKET_SPAWN_PIN,
};

enum fsocket_spawn_mode fsocket_spawn_mode(void);
unsigned int fsocket_steal_after_ms(void);
int fsocket_debug_level(void);

/* Switches on what has been asked for at load; errors as of the features. */
int fsocket_params_init(void);
void fsocket_params_exit(void);
void fsocket_params_report(void);

#endif
