// SPDX-License-Identifier: GPL-2.0-only
/* How much the module says in the kernel's log. */
#include "log.h"

unsigned int fsocket_log_level = FSOCKET_INFO;
