/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_NTUPLE_H
#define FSOCKET_NTUPLE_H

#include <linux/types.h>

/*
 * Adds (@on) or removes the NICs' filters that deliver packets whose destination port
 * names a CPU to that CPU. NICs that cannot have such filters are left alone. Called in
 * process context, by one caller at a time.
 */
int fsocket_ntuple_enable(bool on);

#endif
