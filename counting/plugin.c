// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin of QEMU's emulation that counts what the guest's cores do to each other.
 *
 *	-plugin counting.so,socket=PATH
 *
 * Nothing of the guest is instrumented until "on", so that the plugin costs nothing
 * before. Switching throws all translations away, which QEMU does by qemu_plugin_reset()
 * while all vCPUs stand still; a vCPU's thread has to ask for it, when it goes idle.
 */
#include "control.h"
#include "counter.h"
#include "lines.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seconds within which a vCPU has to become idle. */
#define SWITCH_LIMIT 60

int qemu_plugin_version = 1;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t switched = PTHREAD_COND_INITIALIZER;
/* These are changed under the mutex; idle vCPUs read switching without it. */
static bool counting, wanted, switching;
static struct settings settings;

static void on_idle(qemu_plugin_id_t id, unsigned int vcpu);

/*
 * QEMU calls this while no vCPU runs. It has removed all callbacks, also those by which idle
 * vCPUs look at switching.
 */
static void apply(qemu_plugin_id_t id)
{
	pthread_mutex_lock(&mutex);
	if (switching) {
		if (counting)
			counter_stop();
		counting = wanted;
		if (counting)
			counter_start(&settings);
		__atomic_store_n(&switching, false, __ATOMIC_RELAXED);
		pthread_cond_broadcast(&switched);
	}
	qemu_plugin_register_vcpu_idle_cb(id, on_idle);
	qemu_plugin_register_vcpu_resume_cb(id, on_idle);
	if (counting)
		qemu_plugin_register_vcpu_tb_trans_cb(id, counter_translate);
	pthread_mutex_unlock(&mutex);
}

static void on_idle(qemu_plugin_id_t id, unsigned int vcpu)
{
	(void)vcpu;
	if (__atomic_load_n(&switching, __ATOMIC_RELAXED))
		qemu_plugin_reset(id, apply);
}

/* Returns false if no vCPU became idle in time. */
static bool switch_to(bool on, const struct settings *new)
{
	struct timespec until;
	int error = 0;
	bool done;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SWITCH_LIMIT;
	pthread_mutex_lock(&mutex);
	wanted = on;
	if (on)
		settings = *new;
	__atomic_store_n(&switching, on || counting, __ATOMIC_RELAXED);
	while (switching && !error)
		error = pthread_cond_timedwait(&switched, &mutex, &until);
	done = !switching;
	switching = false;
	pthread_mutex_unlock(&mutex);
	return done;
}

static bool parse_on(char *words, struct settings *new)
{
	char *word, *end;

	*new = (struct settings){ .quantum = 2000 };
	while ((word = strsep(&words, " "))) {
		if (!strcmp(word, "user")) {
			new->user = true;
			continue;
		}
		new->quantum = strtoull(word, &end, 10);
		if (!*word || *end)
			return false;
	}
	return true;
}

static void command_on(char *words, char *answer, size_t size)
{
	struct settings new;

	if (!parse_on(words, &new))
		snprintf(answer, size, "error: on: give on [QUANTUM] [user]");
	else if (!switch_to(true, &new))
		snprintf(answer, size, "error: no CPU of the guest was idle: stop what keeps all busy");
	else
		snprintf(answer, size, "ok");
}

static void answer_command(char *line, char *answer, size_t size)
{
	char *words = line, *verb = strsep(&words, " ");

	if (!strcmp(verb, "on")) {
		command_on(words, answer, size);
	} else if (!strcmp(verb, "off")) {
		if (switch_to(false, NULL))
			snprintf(answer, size, "ok");
		else
			snprintf(answer, size, "error: no CPU of the guest was idle: stop what keeps all busy");
	} else if (!strcmp(verb, "reset")) {
		counter_zero();
		snprintf(answer, size, "ok");
	} else if (!strcmp(verb, "dump") && words) {
		if (counter_dump(words))
			snprintf(answer, size, "ok");
		else
			snprintf(answer, size, "error: %s: %s", words, strerror(errno));
	} else if (!strcmp(verb, "status")) {
		snprintf(answer, size, "ok %s", counting ? "on" : "off");
	} else {
		snprintf(answer, size,
			 "error: %s: give on [QUANTUM] [user], off, reset, dump FILE, or status", verb);
	}
}

static int refuse(const char *why)
{
	fprintf(stderr, "counting: %s\n", why);
	return -1;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
	const char *path = NULL;

	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "socket=", 7))
			path = argv[i] + 7;
	if (!path)
		return refuse("an option is missing: socket=PATH");
	if (!info->system_emulation || strcmp(info->target_name, "x86_64"))
		return refuse("only machines with x86-64 are understood");
	if (info->system.max_vcpus > LINES_MAX_VCPUS)
		return refuse("more CPUs than a line's state has bits for: give at most 62");
	if (!qemu_get_cpu || !qemu_plugin_disable_mem_helpers)
		return refuse("this QEMU does not export qemu_get_cpu(): Debian 12's 7.2 does");
	if (!counter_make(info->system.max_vcpus))
		return refuse("no memory for the tables");
	if (!control_start(path, answer_command))
		return refuse(strerror(errno));
	apply(id);
	return 0;
}
