/* SPDX-License-Identifier: GPL-2.0-only */
/* Messages of the server to its user, and the log file that keeps a copy. */
#ifndef DEMO_LOG_H
#define DEMO_LOG_H

#include <stdbool.h>

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* True with -d. Tested before every debug() so that its arguments cost nothing. */
extern bool log_debugging;

/* Appends to the file from now on; ends the program if the file cannot be opened. */
void log_open(const char *path);

/* Prints one line on stdout and copies it into the log. */
void say(const char *format, ...) PRINTF_LIKE(1, 2);

/* Prints one sentence on stderr after the program's name and copies it into the log. */
void warn(const char *format, ...) PRINTF_LIKE(1, 2);

/* Does warn() and ends the process with that exit status. */
_Noreturn void fail(int status, const char *format, ...) PRINTF_LIKE(2, 3);

/* Writes one line into the log, or to stderr if there is none. */
void log_debug_line(const char *format, ...) PRINTF_LIKE(1, 2);

#define debug(...)					\
	do {						\
		if (log_debugging)			\
			log_debug_line(__VA_ARGS__);	\
	} while (0)

#endif
