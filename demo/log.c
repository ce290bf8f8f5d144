// SPDX-License-Identifier: GPL-2.0-only
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool log_debugging;

static int log_fd = -1;

/*
 * Each line is one write(), so that the lines of several workers in one file do not mix.
 * An error of write() is ignored, since there is nowhere else to report it.
 */
static void put(int fd, const char *line, size_t len)
{
	ssize_t ignored = write(fd, line, len);

	(void)ignored;
}

static void put_line(int fd, int copy_fd, const char *prefix, const char *format, va_list args)
{
	char *text, *line;
	int len;

	if (vasprintf(&text, format, args) < 0)
		return;
	len = asprintf(&line, "%s%s%s\n", prefix, *prefix ? ": " : "", text);
	free(text);
	if (len < 0)
		return;
	put(fd, line, len);
	if (copy_fd >= 0)
		put(copy_fd, line, len);
	free(line);
}

void log_open(const char *path)
{
	log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (log_fd < 0)
		fail(1, "-o %s: cannot be opened for writing: %s: name a file in a directory that exists and that you may write to",
		     path, strerror(errno));
}

void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_line(STDOUT_FILENO, log_fd, "", format, args);
	va_end(args);
}

void warn(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_line(STDERR_FILENO, log_fd, program_invocation_short_name, format, args);
	va_end(args);
}

void fail(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_line(STDERR_FILENO, log_fd, program_invocation_short_name, format, args);
	va_end(args);
	exit(status);
}

void log_debug_line(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	put_line(log_fd >= 0 ? log_fd : STDERR_FILENO, -1, "", format, args);
	va_end(args);
}
