/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_NTUPLE_H
#define FSOCKET_NTUPLE_H

#include <linux/types.h>

/*
 * Has NICs deliver packets whose destination port names a CPU to that CPU, as
 * far as they can; or no longer. Process context, one caller at a time.
 */
int fsocket_ntuple_enable(bool on);

#endif
