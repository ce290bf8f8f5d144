/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PROC_H
#define FSOCKET_PROC_H

/* Makes the module's files in /proc/net of each network namespace; returns 0 or -ENOMEM. */
int fsocket_proc_init(void);
void fsocket_proc_exit(void);

#endif
