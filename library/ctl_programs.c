// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of programs that it knows: their configuration, and whether they can
 * use the library and the device.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

/* Returns the value of the option @name in a command line, or NULL. */
static char *option_value(const char *line, const char *name)
{
	char *words = ctl_format("%s", line), *word, *rest, *value = NULL;

	for (word = strtok_r(words, " ", &rest); word && !value; word = strtok_r(NULL, " ", &rest)) {
		if (strncmp(word, name, strlen(name)))
			continue;
		if (word[strlen(name)])
			value = ctl_format("%s", word + strlen(name));
		else if ((word = strtok_r(NULL, " ", &rest)))
			value = ctl_format("%s", word);
		else
			break;
	}
	free(words);
	return value;
}

/* Returns the path, in this mount namespace, of the configuration of the nginx master @pid. */
static char *nginx_file(int pid, const char *line)
{
	char *file = option_value(line, "-c"), *prefix = option_value(line, "-p"), *path;

	if (!file)
		path = ctl_format("/proc/%d/root/etc/nginx/nginx.conf", pid);
	else if (*file == '/')
		path = ctl_format("/proc/%d/root%s", pid, file);
	else
		path = ctl_format("/proc/%d/root%s/%s", pid, prefix ? prefix : "/usr/share/nginx", file);
	free(file);
	free(prefix);
	return path;
}

/* Returns whether the nginx configuration @text contains "accept_mutex on;". */
static bool has_accept_mutex(char *text)
{
	const char *name = "accept_mutex";

	for (char *at = text; (at = strchr(at, '#'));)
		while (*at && *at != '\n')
			*at++ = ' ';
	for (char *at = text; (at = strstr(at, name)); at += strlen(name)) {
		char value[4];

		if (sscanf(at + strlen(name), " %3[a-z]", value) == 1 && !strcmp(value, "on"))
			return true;
	}
	return false;
}

static void look_for_nginx(int pid)
{
	char *line = ctl_readf("/proc/%d/cmdline", pid), *path, *text;

	if (line && !strncmp(line, "nginx: master process", strlen("nginx: master process"))) {
		path = nginx_file(pid, line);
		text = ctl_read(path);
		if (!text)
			doctor_skip("nginx, process %d: %s: %s", pid, path, strerror(errno));
		else if (has_accept_mutex(text))
			doctor_finding("accept_mutex off; in the events block of its configuration, then nginx -s reload",
				       "nginx, process %d, has accept_mutex on: its workers take turns, so one core at a time accepts",
				       pid);
		free(path);
		free(text);
	}
	free(line);
}

void doctor_accept_mutex(void)
{
	ctl_each_process(look_for_nginx);
}

static bool is_called(int pid, const char *name)
{
	char *comm = ctl_readf("/proc/%d/comm", pid);
	bool is = comm && !strcmp(comm, name);

	free(comm);
	return is;
}

static void look_for_irqbalance(int pid)
{
	if (is_called(pid, "irqbalance"))
		doctor_finding("systemctl disable --now irqbalance, then give each receive queue's interrupt a core of its own",
			       "irqbalance, process %d, runs: it moves interrupts, and with them connections, to other cores",
			       pid);
}

void doctor_irqbalance(void)
{
	ctl_each_process(look_for_irqbalance);
}

/* Returns whether the configuration @text has a line of the words @first and @second. */
static bool has_line(const char *text, const char *first, const char *second)
{
	for (; text; text = strchr(text, '\n')) {
		char one[64], two[64];

		text += strspn(text, "\n");
		if (sscanf(text, "%63s %63s", one, two) == 2 && !strcmp(one, first) &&
		    !strcmp(two, second))
			return true;
	}
	return false;
}

static void look_for_haproxy(int pid)
{
	char *line, *maps, *file, *text;

	if (!is_called(pid, "haproxy"))
		return;
	line = ctl_readf("/proc/%d/cmdline", pid);
	maps = ctl_readf("/proc/%d/maps", pid);
	file = line ? option_value(line, "-f") : NULL;
	if (file && *file == '/' && maps && strstr(maps, "libfsocket.so")) {
		text = ctl_readf("/proc/%d/root%s", pid, file);
		if (text && !has_line(text, "nbthread", "1") &&
		    !has_line(text, "tune.listener.multi-queue", "off"))
			doctor_finding("tune.listener.multi-queue off in the section global of its configuration, then reload it",
				       "HAProxy, process %d, hands what a thread has accepted to others: the connection leaves the core that received it",
				       pid);
		free(text);
	}
	free(file);
	free(maps);
	free(line);
}

void doctor_multi_queue(void)
{
	ctl_each_process(look_for_haproxy);
}

/* Returns whether the environment @text chooses a backend that needs no device. */
static bool does_without(const char *backend)
{
	return backend && (!strncmp(backend, "FSOCKET_BACKEND=kernel", 22) ||
			   !strncmp(backend, "FSOCKET_BACKEND=auto", 20));
}

static void look_for_preload(int pid)
{
	char *environment = ctl_readf("/proc/%d/environ", pid), *maps = NULL, comm[64], *device;
	const char *preload, *backend;
	int process;

	/* ctl_read() has put a blank between the words. */
	preload = environment ? strstr(environment, "LD_PRELOAD=") : NULL;
	if (preload && memmem(preload, strcspn(preload, " "), "libfsocket.so", 13))
		maps = ctl_readf("/proc/%d/maps", pid);
	backend = environment ? strstr(environment, "FSOCKET_BACKEND=") : NULL;
	device = ctl_format("/proc/%d/root/dev/fastsocket", pid);
	ctl_process(pid, &process, comm);
	/* A process that is ending has no maps any more. */
	if (maps && *maps && !strstr(maps, "libfsocket.so"))
		doctor_finding("take its capabilities or set-user-ID bit off and give them by the unit (AmbientCapabilities=); a static program has to be linked anew",
			       "process %d (%s) was to have the library, and has not: the loader ignores LD_PRELOAD for programs with file capabilities, set-user-ID, or without dynamic linking",
			       pid, comm);
	else if (maps && *maps && module_loaded() && access(device, F_OK) && !does_without(backend))
		doctor_finding("BindPaths=/dev/fastsocket and DeviceAllow=/dev/fastsocket rw in its unit",
			       "process %d (%s) has the library, but no /dev/fastsocket: its unit hides it (PrivateDevices=), or its container does",
			       pid, comm);
	free(device);
	free(maps);
	free(environment);
}

void doctor_preload(void)
{
	ctl_each_process(look_for_preload);
}
