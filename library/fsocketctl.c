// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl: shows and sets what the fastsocket module does; fsocketctl(1).
 *
 *	fsocketctl.c	arguments; status, set
 *	ctl_listeners.c	listeners, and the list of servers
 *	ctl_watch.c	watch
 *	ctl_util.c	functions that all of them use
 *	ctl_module.c	reads what the module shows
 *	ctl_groups.c	reads what the library has made without the module
 *	ctl_sockets.c	lists listening sockets
 *	ctl_doctor.c	doctor: the host
 *	ctl_nics.c	doctor: reads network interfaces
 *	ctl_network.c	doctor: the network interfaces
 *	ctl_delivery.c	doctor: packets on cores without a worker
 *	ctl_servers.c	doctor: the running servers
 *	ctl_topology.c	doctor: NUMA nodes, threads of a core
 *	ctl_programs.c	doctor: known programs
 *	ctl_live.c	doctor: counters that grow
 *	ctl_run.c	run
 *	ctl_json.c	writes JSON
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define MAX_VALUE 255

static const char usage[] =
	"usage: fsocketctl SUBCOMMAND [--json] [ARGUMENT...]\n"
	"\n"
	"  status              parameters with their meaning, counters; servers\n"
	"  set NAME=VALUE...   change parameters: all of them or none\n"
	"  watch [SECONDS]     what each core does per second, every SECONDS (1)\n"
	"  listeners           listening sockets: workers, cores, accept queues\n"
	"  doctor              why Fastsocket may not help on this host, and what to do\n"
	"  run PROGRAM...      run a program with the library, and say whether that works\n"
	"\n"
	"--json prints JSON; run --backend=auto|module|kernel chooses the backend. See fsocketctl(1).\n";

static int status_without_module(void)
{
	struct json j = { .out = ctl_json_out };

	groups_required();
	if (!ctl_json) {
		printf("fastsocket: the module is not loaded, so there are no parameters and counters\n\n");
		servers_table();
		return 0;
	}
	json_open(&j, NULL, '{');
	json_string(&j, "version", NULL);
	json_open(&j, "parameters", '{');
	json_close(&j, '}', false);
	json_open(&j, "counters", '{');
	json_close(&j, '}', false);
	servers_json(&j);
	json_close(&j, '}', true);
	return 0;
}

int ctl_status(char **argv)
{
	struct json j = { .out = ctl_json_out };
	struct parameter *parameters;
	struct counters *c;
	char *version;
	int count;

	ctl_no_arguments(argv, "status");
	if (!module_loaded())
		return status_without_module();
	version = ctl_read("/sys/module/fastsocket/version");
	parameters = module_parameters(&count);
	c = module_counters();

	if (ctl_json) {
		json_open(&j, NULL, '{');
		json_string(&j, "version", version);
		json_open(&j, "parameters", '{');
		for (int i = 0; i < count; i++) {
			json_open(&j, parameters[i].name, '{');
			json_string(&j, "value", parameters[i].value);
			json_string(&j, "meaning", parameters[i].meaning);
			json_close(&j, '}', false);
		}
		json_close(&j, '}', false);
		json_open(&j, "counters", '{');
		for (int i = 0; i < c->columns; i++)
			json_integer(&j, c->names[i], module_counter_sum(c, i));
		json_close(&j, '}', false);
		servers_json(&j);
		json_close(&j, '}', true);
		return 0;
	}

	printf("fastsocket %s\n\nparameter                      value  meaning\n", version);
	for (int i = 0; i < count; i++)
		printf("%-30s %5s  %s\n", parameters[i].name,
		       parameters[i].value ? parameters[i].value : "?",
		       parameters[i].meaning ? parameters[i].meaning :
					       "? (modinfo fastsocket does not know it)");
	printf("\ncounter                                 sum\n");
	for (int i = 0; i < c->columns; i++)
		printf("%-22s %20llu\n", c->names[i], module_counter_sum(c, i));
	printf("\n");
	servers_table();
	return 0;
}

struct setting {
	char *name, *value, *path, *old;
};

static int write_value(const struct setting *s, const char *value)
{
	int fd = open(s->path, O_WRONLY | O_CLOEXEC), error = 0;
	char *line;

	if (fd < 0)
		return errno;
	/* The newline makes sure that an empty value reaches the kernel, too. */
	line = ctl_format("%s\n", value);
	if (write(fd, line, strlen(line)) < 0)
		error = errno;
	free(line);
	close(fd);
	return error;
}

static void parse_setting(struct setting *s, const char *text)
{
	size_t name = strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789_");

	if (!name || text[name] != '=')
		ctl_fail(CTL_USAGE, "%s: not NAME=VALUE with the name of a parameter", text);
	s->name = ctl_format("%.*s", (int)name, text);
	s->value = ctl_format("%s", text + name + 1);
	/* The kernel takes one page at a time, and would take the rest for another value. */
	if (strlen(s->value) > MAX_VALUE)
		ctl_fail(CTL_USAGE, "%s: the value has more than %d characters", s->name, MAX_VALUE);
	s->path = ctl_format("/sys/module/fastsocket/parameters/%s", s->name);
}

static const char *refusal(int error)
{
	if (error == EACCES)
		return geteuid() ? "only root may" : "it cannot be changed while the module is loaded";
	if (error == EINVAL)
		return "the module does not allow that value";
	return strerror(error);
}

static void set_failed(struct setting *s, int failed, int error)
{
	char *back = ctl_format(failed ? "; what was set before is put back" : "");
	char *meaning = module_meaning(s[failed].name);

	for (int i = failed - 1; i >= 0; i--) {
		int again = write_value(&s[i], s[i].old);

		if (again)
			back = ctl_format("; and %s could not be put back to %s: %s", s[i].name,
					  s[i].old, refusal(again));
	}
	ctl_fail(CTL_FAILED, "%s=%s: %s%s%s%s%s", s[failed].name, s[failed].value,
		 refusal(error), meaning ? " (" : "", meaning ? meaning : "",
		 meaning ? ")" : "", back);
}

int ctl_set(char **argv)
{
	struct json j = { .out = ctl_json_out };
	struct setting *s;
	sigset_t all;
	int count = 0, error;

	while (argv[count])
		count++;
	if (!count)
		ctl_fail(CTL_USAGE, "set needs NAME=VALUE, one or several");
	s = ctl_alloc(NULL, count * sizeof(*s));
	for (int i = 0; i < count; i++)
		parse_setting(&s[i], argv[i]);
	module_required();
	for (int i = 0; i < count; i++) {
		if (access(s[i].path, F_OK))
			ctl_fail(CTL_FAILED, "%s: there is no such parameter: fsocketctl status lists them",
				 s[i].name);
	}

	/* Block signals, so that an interrupted command sets all values or none. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	for (int i = 0; i < count; i++) {
		s[i].old = ctl_read(s[i].path);
		error = s[i].old ? write_value(&s[i], s[i].value) : errno;
		if (error)
			set_failed(s, i, error);
	}

	if (ctl_json)
		json_open(&j, NULL, '{');
	for (int i = 0; i < count; i++) {
		char *now = ctl_read(s[i].path);

		if (ctl_json) {
			json_open(&j, s[i].name, '{');
			json_string(&j, "old", s[i].old);
			json_string(&j, "new", now);
			json_close(&j, '}', false);
		} else {
			printf("%s: %s, was %s\n", s[i].name, now ? now : "?", s[i].old);
		}
	}
	if (ctl_json)
		json_close(&j, '}', true);
	return 0;
}

static const struct {
	const char *name;
	int (*main)(char **argv);
} subcommands[] = {
	{ "status", ctl_status },
	{ "set", ctl_set },
	{ "watch", ctl_watch },
	{ "listeners", ctl_listeners },
	{ "doctor", ctl_doctor },
	{ "run", ctl_run },
};

#define NAMES "status, set, watch, listeners, doctor or run"

/* Removes --json from @argv. */
static void take_json(char **argv)
{
	char **kept = argv;

	for (; *argv; argv++) {
		if (!strcmp(*argv, "--json"))
			ctl_json = true;
		else
			*kept++ = *argv;
	}
	*kept = NULL;
}

/* Returns the arguments that follow the options. */
static char **take_run_options(char **argv)
{
	static const char backend[] = "--backend=";

	for (; *argv; argv++) {
		if (!strcmp(*argv, "--json"))
			ctl_json = true;
		else if (!strncmp(*argv, backend, strlen(backend)))
			ctl_run_backend(*argv + strlen(backend));
		else
			break;
	}
	return argv;
}

int main(int argc, char **argv)
{
	const size_t count = sizeof(subcommands) / sizeof(subcommands[0]);
	size_t which = 0;
	int status;

	ctl_json_out = stdout;
	if (argc < 2)
		ctl_fail(CTL_USAGE, "a subcommand is missing: give " NAMES);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
		fputs(usage, stdout);
		return 0;
	}
	while (which < count && strcmp(argv[1], subcommands[which].name))
		which++;
	if (which == count)
		ctl_fail(CTL_USAGE, "%s: no such subcommand: give " NAMES, argv[1]);
	argv += 2;
	/* The arguments behind PROGRAM belong to the program. */
	if (subcommands[which].main != ctl_run) {
		take_json(argv);
	} else {
		ctl_json_out = stderr;
		argv = take_run_options(argv);
	}
	if (*argv && **argv == '-')
		ctl_fail(CTL_USAGE, "%s: no such option: there is only --json%s", *argv,
			 subcommands[which].main == ctl_run ? ", and --backend=auto, module or kernel" : "");
	status = subcommands[which].main(argv);
	if (fflush(stdout))
		ctl_fail(CTL_FAILED, "standard output: %s", strerror(errno));
	return status;
}
