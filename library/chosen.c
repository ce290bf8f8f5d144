// SPDX-License-Identifier: GPL-2.0-only
/* The backend that the user has chosen by FSOCKET_BACKEND. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"
#include "kernel.h"
#include "real.h"

/* fsocketctl run refuses such a value; here the program runs on, with the default. */
static void unknown_backend(const char *value)
{
	char line[256];
	int length = snprintf(line, sizeof(line), "libfsocket: FSOCKET_BACKEND=%.64s: no such backend: give auto, module or kernel (the module is used now)\n", value);

	RAW3(SYS_write, STDERR_FILENO, line, length);
}

bool fsocket_kernel_chosen(void)
{
	static atomic_int chosen;
	const char *backend;

	if (atomic_load(&chosen))
		return atomic_load(&chosen) == 1;
	backend = fsocket_setting("FSOCKET_BACKEND");
	if (backend && !strcmp(backend, "kernel"))
		atomic_store(&chosen, 1);
	else if (backend && !strcmp(backend, "auto"))
		atomic_store(&chosen, fsocket_device_there() ? 2 : 1);
	else if (!atomic_exchange(&chosen, 2) && backend && *backend && strcmp(backend, "module"))
		unknown_backend(backend);
	return atomic_load(&chosen) == 1;
}
