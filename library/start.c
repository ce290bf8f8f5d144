// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the library does when the program starts and has one thread, since it cannot be done
 * whenever a function of the library is called first:
 *
 * - dlsym() takes a lock of the dynamic linker (glibc, dlfcn/dlsym.c). A thread that the constructor
 *   of a plugin waits for would wait for dlopen(), and a copy of the process that _Fork() has made
 *   for ever; and a signal handler must not call it.
 * - getenv() must not be called while another thread changes the environment.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/single_threaded.h>

#include "kernel.h"
#include "real.h"

static struct setting {
	const char *name;
	bool is_set;
	/* A program may write over its first environment, as nginx does. */
	char value[80];
} settings[] = {
	{ .name = "FSOCKET_BACKEND" },
	{ .name = "FSOCKET_REQUIRED" },
	{ .name = "FSOCKET_STEAL_AFTER_MS" },
};

static bool started;

/* The linker defines these. */
extern const struct fsocket_real __start_fsocket_reals[] __attribute__((visibility("hidden")));
extern const struct fsocket_real __stop_fsocket_reals[] __attribute__((visibility("hidden")));

const char *fsocket_setting(const char *name)
{
	if (__libc_single_threaded || !started)
		return getenv(name);
	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++)
		if (settings[i].is_set && !strcmp(settings[i].name, name))
			return settings[i].value;
	return NULL;
}

__attribute__((constructor)) static void library_starts(void)
{
	for (const struct fsocket_real *r = __start_fsocket_reals; r < __stop_fsocket_reals; r++)
		if (!*r->where)
			*r->where = dlsym(RTLD_NEXT, r->name);
	/* The program shall not read an error that is not its own, and dlerror() would translate it. */
	dlsym(RTLD_NEXT, "close");
	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
		const char *value = getenv(settings[i].name);

		settings[i].is_set = value;
		snprintf(settings[i].value, sizeof(settings[i].value), "%s", value ? value : "");
	}
	fsocket_making_at_start();
	started = true;
}
