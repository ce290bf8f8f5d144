/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LOG_H
#define FSOCKET_LOG_H

#include <linux/printk.h>
#include <linux/sched.h>

/* Levels of enable_fastsocket_debug; the numbers are the original's. */
#define FSOCKET_ALERT	0
#define FSOCKET_ERR	1
#define FSOCKET_WARNING	2
#define FSOCKET_INFO	3
#define FSOCKET_DEBUG	4

/* enable_fastsocket_debug: messages whose level is below this are logged. */
extern unsigned int fsocket_log_level;

/*
 * Any user can provoke these lines, so they are rate-limited and never of a
 * severity that raises an alarm.
 */
#define fsocket_log(level, fmt, ...)					\
do {									\
	if ((level) < READ_ONCE(fsocket_log_level))			\
		pr_info_ratelimited("%s[%d]: " fmt, current->comm,	\
				    task_pid_nr(current), ##__VA_ARGS__); \
} while (0)

#endif
