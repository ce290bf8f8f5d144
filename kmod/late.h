/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LATE_H
#define FSOCKET_LATE_H

/* steal_after_ms: how long connections wait for a busy worker. */
extern unsigned int fsocket_steal_after_ms;

#endif
