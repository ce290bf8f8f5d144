// SPDX-License-Identifier: GPL-2.0-only
/* fsocketctl: errors, memory, text, files and processes. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl.h"

bool ctl_json;
FILE *ctl_json_out;

void ctl_fail(int status, const char *format, ...)
{
	struct json j = { .out = ctl_json_out };
	char *text;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	if (ctl_json) {
		json_open(&j, NULL, '{');
		json_string(&j, "error", text);
		json_close(&j, '}', true);
	}
	if (!ctl_json || ctl_json_out != stderr)
		fprintf(stderr, "fsocketctl: %s\n", text ? text : "out of memory");
	exit(status);
}

void *ctl_alloc(void *old, size_t size)
{
	void *new = realloc(old, size);

	if (!new)
		ctl_fail(CTL_FAILED, "out of memory");
	return new;
}

DIR *ctl_opendir(const char *path)
{
	DIR *dir = opendir(path);

	if (!dir && errno == ENOMEM)
		ctl_fail(CTL_FAILED, "out of memory");
	return dir;
}

static char *format_list(const char *format, va_list args)
{
	char *text;

	if (vasprintf(&text, format, args) < 0)
		ctl_fail(CTL_FAILED, "out of memory");
	return text;
}

char *ctl_format(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	text = format_list(format, args);
	va_end(args);
	return text;
}

void ctl_append(char **text, const char *between, char *more)
{
	char *longer = ctl_format("%s%s%s", *text ? *text : "", *text ? between : "", more);

	free(*text);
	free(more);
	*text = longer;
}

static char *read_all(int fd)
{
	size_t length = 0, room = 4096;
	char *text = ctl_alloc(NULL, room);
	ssize_t got;

	while ((got = read(fd, text + length, room - length - 1)) > 0) {
		length += got;
		if (room - length < 2)
			text = ctl_alloc(text, room *= 2);
	}
	if (got < 0) {
		free(text);
		return NULL;
	}
	for (size_t i = 0; i < length; i++)
		if (!text[i])
			text[i] = ' ';
	while (length && (text[length - 1] == '\n' || text[length - 1] == ' '))
		length--;
	text[length] = '\0';
	return text;
}

char *ctl_read(const char *path)
{
	/* Another user's process may have named the file, so refuse pipes and devices. */
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), saved;
	char *text = NULL;
	struct stat stat;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &stat) || !S_ISREG(stat.st_mode))
		errno = EINVAL;
	else
		text = read_all(fd);
	saved = errno;
	close(fd);
	errno = saved;
	return text;
}

char *ctl_readf(const char *format, ...)
{
	char *path, *text;
	va_list args;

	va_start(args, format);
	path = format_list(format, args);
	va_end(args);
	text = ctl_read(path);
	free(path);
	return text;
}

char *ctl_output(const char *command)
{
	char *line = ctl_format("PATH=$PATH:/usr/sbin:/sbin; exec 2> /dev/null; %s", command);
	FILE *pipe = popen(line, "re");
	char *text;

	if (!pipe)
		ctl_fail(CTL_FAILED, "sh: %s", strerror(errno));
	free(line);
	text = read_all(fileno(pipe));
	if (pclose(pipe)) {
		free(text);
		return NULL;
	}
	return text;
}

void ctl_cpu_list(cpu_set_t *set, const char *list)
{
	CPU_ZERO(set);
	while (*list) {
		char *end;
		unsigned long first = strtoul(list, &end, 10), last = first;

		if (end == list)
			return;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		for (; first <= last && first < CPU_SETSIZE; first++)
			CPU_SET(first, set);
		list = *end ? end + 1 : end;
	}
}

void ctl_cpus_online(cpu_set_t *set)
{
	char *list = ctl_read("/sys/devices/system/cpu/online");

	if (!list)
		ctl_fail(CTL_FAILED, "/sys/devices/system/cpu/online: %s", strerror(errno));
	ctl_cpu_list(set, list);
	free(list);
}

void ctl_process(int tid, int *pid, char comm[64])
{
	char *status = ctl_readf("/proc/%d/status", tid), *name, *at;

	*pid = tid;
	strcpy(comm, "?");
	if (!status)
		return;
	at = strstr(status, "\nTgid:");
	if (at)
		*pid = atoi(at + strlen("\nTgid:"));
	free(status);
	name = ctl_readf("/proc/%d/comm", *pid);
	if (name)
		snprintf(comm, 64, "%s", name);
	free(name);
}

void ctl_no_arguments(char **argv, const char *subcommand)
{
	if (argv[0])
		ctl_fail(CTL_USAGE, "%s: %s takes no argument", argv[0], subcommand);
}

void ctl_put_plain(const char *text)
{
	for (; *text; text++)
		putchar((unsigned char)*text < ' ' || *text == 127 ? '?' : *text);
}

void ctl_each_process(void (*look)(int pid))
{
	DIR *dir = ctl_opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			look(atoi(entry->d_name));
	if (dir)
		closedir(dir);
}
