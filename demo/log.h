/* SPDX-License-Identifier: GPL-2.0-only */
/* What the server tells its user, and the log file that keeps a copy. */
#ifndef DEMO_LOG_H
#define DEMO_LOG_H

#include <stdbool.h>

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* True with -d. Tested before every debug() so that its arguments cost nothing. */
extern bool log_debugging;

/* Appends to the file from now on; a file that cannot be opened ends the program. */
void log_open(const char *path);

/* One line to stdout, copied into the log. */
void say(const char *format, ...) PRINTF_LIKE(1, 2);

/* One sentence to stderr behind the program's name, copied into the log. */
void warn(const char *format, ...) PRINTF_LIKE(1, 2);

/* warn(), then the end of the process with that exit status. */
_Noreturn void fail(int status, const char *format, ...) PRINTF_LIKE(2, 3);

/* One line into the log, or to stderr when there is none. */
void log_debug_line(const char *format, ...) PRINTF_LIKE(1, 2);

#define debug(...)					\
	do {						\
		if (log_debugging)			\
			log_debug_line(__VA_ARGS__);	\
	} while (0)

#endif
