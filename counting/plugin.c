// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin of QEMU's emulation that counts what the guest's cores do to each other.
 *
 *	-plugin counting.so,socket=PATH
 *
 * Nothing of the guest is instrumented until "on", so that the plugin costs nothing
 * before. Switching throws all translations away while all vCPUs stand still.
 *
 * qemu_plugin_reset() would do that, too, but in QEMU 7.2 it frees the callbacks by which
 * a vCPU says that it goes idle while another vCPU's thread may walk their list: such a
 * vCPU does not execute the guest, and so is not waited for. QEMU crashed there.
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

/* Seconds within which all vCPUs have to stand still. */
#define SWITCH_LIMIT 60

int qemu_plugin_version = 1;

static qemu_plugin_id_t plugin;
static int n_vcpus;
/* The mutex guards what follows; vCPUs that translate read counting, which changes while
 * none does.
 */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrival = PTHREAD_COND_INITIALIZER;
static bool counting, wanted;
static struct settings settings;
/* The number of the switch that is under way, and how much of its work is done. */
static unsigned int number, arrived;

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	if (counting)
		counter_translate(id, tb);
}

/* A vCPU has done all work that was queued for it before. */
static void arrive(struct CPUState *cpu, union run_on_cpu_data data)
{
	(void)cpu;
	pthread_mutex_lock(&mutex);
	if (data.number == number) {
		arrived++;
		pthread_cond_broadcast(&arrival);
	}
	pthread_mutex_unlock(&mutex);
}

/* Runs while no vCPU translates or executes. */
static void apply(struct CPUState *cpu, union run_on_cpu_data data)
{
	pthread_mutex_lock(&mutex);
	if (data.number == number) {
		if (counting)
			counter_stop();
		counting = wanted;
		if (counting)
			counter_start(&settings);
		else
			qemu_plugin_register_vcpu_tb_trans_cb(plugin, NULL);
		tb_flush(cpu);
		arrived++;
		pthread_cond_broadcast(&arrival);
	}
	pthread_mutex_unlock(&mutex);
}

/* Returns false if not so many have arrived in time. */
static bool wait_for(unsigned int count)
{
	struct timespec until;
	int error = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += SWITCH_LIMIT;
	while (arrived < count && !error)
		error = pthread_cond_timedwait(&arrival, &mutex, &until);
	return arrived >= count;
}

/* Returns false if the vCPUs did not stand still in time. */
static bool switch_to(bool on, const struct settings *new)
{
	union run_on_cpu_data data;
	bool done;

	pthread_mutex_lock(&mutex);
	wanted = on;
	if (on)
		settings = *new;
	done = !on && !counting;
	data.number = ++number;
	arrived = 0;
	if (!done) {
		/* Each vCPU learns that there is a callback by work that QEMU queues for it. */
		if (on)
			qemu_plugin_register_vcpu_tb_trans_cb(plugin, translate);
		for (int i = 0; i < n_vcpus; i++)
			async_run_on_cpu(qemu_get_cpu(i), arrive, data);
		if (wait_for(n_vcpus)) {
			async_safe_run_on_cpu(qemu_get_cpu(0), apply, data);
			done = wait_for(n_vcpus + 1);
		}
		number++;
	}
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
		snprintf(answer, size, "error: the guest's CPUs did not stand still within a minute: count on a machine that is less busy");
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
			snprintf(answer, size, "error: the guest's CPUs did not stand still within a minute: count on a machine that is less busy");
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
	if (!qemu_get_cpu || !qemu_plugin_disable_mem_helpers || !async_run_on_cpu ||
	    !async_safe_run_on_cpu || !tb_flush)
		return refuse("this QEMU does not export qemu_get_cpu() and others: Debian 12's 7.2 does");
	if (!counter_make(info->system.max_vcpus))
		return refuse("no memory for the tables");
	if (!control_start(path, answer_command))
		return refuse(strerror(errno));
	plugin = id;
	n_vcpus = info->system.smp_vcpus;
	return 0;
}
