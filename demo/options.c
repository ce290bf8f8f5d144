// SPDX-License-Identifier: GPL-2.0-only
#include "options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

static const char *const mode_names[] = {
	[MODE_SHARED] = "shared",
	[MODE_EXCLUSIVE] = "exclusive",
	[MODE_REUSEPORT] = "reuseport",
	[MODE_CBPF] = "cbpf",
};

static const char usage[] =
	"usage: %s [option…]\n"
	"Answers HTTP 200 to whatever arrives (server mode), or with -x forwards every\n"
	"connection to a backend and the answer back (proxy mode).\n"
	"\n"
	"  -w N        worker processes, one per core: 1 to the number of cores online\n"
	"              (default: as many as -c lists, or all cores from the first one on)\n"
	"  -c CORE,…   the workers' cores, from 0; workers for whom none is listed run on the\n"
	"              cores after the last (default 0)\n"
	"  -a IP:PORT… addresses to listen on, IPv6 as [IP]:PORT, port 1 to 65535; [::] means\n"
	"              IPv6 only; several after one -a, or -a several times (default 0.0.0.0:80)\n"
	"  -x IP:PORT… backends, written like -a: each worker takes them in turn (default:\n"
	"              none, server mode)\n"
	"  -m MODE     how the workers listen (default shared):\n"
	"                shared     all wait for the same listening socket\n"
	"                exclusive  the same with EPOLLEXCLUSIVE\n"
	"                reuseport  a SO_REUSEPORT socket each\n"
	"                cbpf       the same, and a BPF program picks the socket of the\n"
	"                           worker on the CPU that the connection arrives on\n"
	"  -k          HTTP keep-alive (default: a connection for each request); with -x the\n"
	"              backends decide, and -k changes nothing\n"
	"  -v          statistics on stdout every second, each figure per second (default:\n"
	"              the requests per second alone, and only if stdout is a terminal)\n"
	"  -o LOG      append every message to the file LOG (default: no file)\n"
	"  -d          debug lines in the log, or on stderr without -o\n"
	"  -h          this text\n"
	"\n"
	"Prints `ready: …` when all workers listen. SIGTERM or SIGINT: a clean stop within\n"
	"a second, and `total: …`.";

const char *options_mode_name(enum listen_mode mode)
{
	return mode_names[mode];
}

/* Parses a decimal number from min to max, digits only; returns -1 if it is none. */
static long parse_number(const char *text, long min, long max)
{
	long value;

	if (strlen(text) > 9 || strspn(text, "0123456789") != strlen(text) || !*text)
		return -1;
	value = strtol(text, NULL, 10);
	return value >= min && value <= max ? value : -1;
}

static bool parse_endpoint(const char *text, struct endpoint *end)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&end->addr;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&end->addr;
	const char *colon = strrchr(text, ':');
	char ip[INET6_ADDRSTRLEN + 2];
	size_t ip_len;
	long port;

	if (!colon)
		return false;
	ip_len = colon - text;
	port = parse_number(colon + 1, 1, 65535);
	if (port < 0 || ip_len < 2 || ip_len >= sizeof(ip))
		return false;
	memcpy(ip, text, ip_len);
	ip[ip_len] = '\0';

	memset(end, 0, sizeof(*end));
	end->text = text;
	if (ip[0] == '[' && ip[ip_len - 1] == ']') {
		ip[ip_len - 1] = '\0';
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		end->addr_len = sizeof(*v6);
		return inet_pton(AF_INET6, ip + 1, &v6->sin6_addr) == 1;
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons(port);
	end->addr_len = sizeof(*v4);
	return inet_pton(AF_INET, ip, &v4->sin_addr) == 1;
}

static void add_endpoint(int option, const char *text, struct endpoint *list, int *count)
{
	if (!parse_endpoint(text, &list[*count]))
		fail(2, "-%c %s: not an address: give IPV4:PORT or [IPV6]:PORT, in numbers, with a port from 1 to 65535",
		     option, text);
	++*count;
}

/* As in the original, all words up to the next option are addresses. */
static void add_endpoints(int option, int argc, char **argv, struct endpoint *list, int *count)
{
	add_endpoint(option, optarg, list, count);
	while (optind < argc && argv[optind][0] != '-')
		add_endpoint(option, argv[optind++], list, count);
}

/* An address given twice would put two sockets of each worker into one SO_REUSEPORT group. */
static void refuse_duplicates(const struct options *opt)
{
	for (int i = 0; i < opt->listen_count; i++)
		for (int j = 0; j < i; j++)
			if (!memcmp(&opt->listen[i].addr, &opt->listen[j].addr,
				    sizeof(opt->listen[i].addr)))
				fail(2, "-a %s: given twice: give each address once",
				     opt->listen[i].text);
}

static enum listen_mode parse_mode(const char *text)
{
	for (size_t i = 0; i < sizeof(mode_names) / sizeof(mode_names[0]); i++)
		if (!strcmp(text, mode_names[i]))
			return i;
	fail(2, "-m %s: not a mode: give shared, exclusive, reuseport or cbpf", text);
}

/*
 * Pins this process to the core for a moment: only this shows whether the core is
 * online, in the cpuset, and allowed.
 */
static bool core_usable(int core)
{
	cpu_set_t before, one;
	bool usable;

	if (sched_getaffinity(0, sizeof(before), &before))
		fail(1, "sched_getaffinity: %s", strerror(errno));
	CPU_ZERO(&one);
	CPU_SET(core, &one);
	usable = !sched_setaffinity(0, sizeof(one), &one);
	if (usable && sched_setaffinity(0, sizeof(before), &before))
		fail(1, "sched_setaffinity: %s", strerror(errno));
	return usable;
}

/* Returns how many cores a list such as 8,10 has; ends the program if it is none. */
static int parse_cores(char *text, int *cores, long online)
{
	int count = 0;

	for (char *part; (part = strsep(&text, ","));) {
		cores[count] = parse_number(part, 0, CPU_SETSIZE - 1);
		if (cores[count] < 0)
			fail(2, "-c %s: not a core: give 0 to %ld", part, online - 1);
		for (int i = 0; i < count; i++)
			if (cores[i] == cores[count])
				fail(2, "-c %s: given twice: give each core once", part);
		count++;
	}
	return count;
}

/* Gives a core to each worker; the first `listed` ones are given. */
static void complete_cores(struct options *opt, int listed, long online)
{
	if (!opt->workers)
		opt->workers = listed > 1 ? listed :
			       online > opt->cores[0] ? online - opt->cores[0] : 1;
	if (opt->workers > online)
		fail(2, "-w %d: more workers than cores, %ld %s online: give 1 to %ld",
		     opt->workers, online, online == 1 ? "is" : "are", online);
	for (int i = 0; i < opt->workers; i++) {
		if (i >= listed)
			opt->cores[i] = opt->cores[i - 1] + 1;
		for (int k = 0; k < listed && i >= listed; k++)
			if (opt->cores[k] == opt->cores[i])
				fail(2, "-c: core %d is listed, and worker %d, for whom none is, would run there, too: list %d cores",
				     opt->cores[i], i, opt->workers);
		if (opt->cores[i] >= CPU_SETSIZE || !core_usable(opt->cores[i]))
			fail(2, "-c %d: core %d for worker %d cannot be used, %ld %s online and the first is 0: give a lower -c or -w",
			     opt->cores[0], opt->cores[i], i, online, online == 1 ? "is" : "are");
	}
}

void options_parse(struct options *opt, int argc, char **argv)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	int option, listed = 1;

	memset(opt, 0, sizeof(*opt));
	/* No list of addresses can have more than argc entries; no core is listed twice. */
	opt->listen = calloc(argc, sizeof(*opt->listen));
	opt->backends = calloc(argc, sizeof(*opt->backends));
	opt->cores = calloc(CPU_SETSIZE + 1, sizeof(*opt->cores));
	if (!opt->listen || !opt->backends || !opt->cores)
		fail(1, "out of memory");

	opterr = 0;
	while ((option = getopt(argc, argv, "+:w:c:a:x:o:vdkm:h")) != -1) {
		switch (option) {
		case 'w':
			opt->workers = parse_number(optarg, 1, CPU_SETSIZE);
			if (opt->workers < 0)
				fail(2, "-w %s: not a number of workers: give 1 to %ld, the cores online",
				     optarg, online);
			break;
		case 'c':
			listed = parse_cores(optarg, opt->cores, online);
			break;
		case 'a':
			add_endpoints('a', argc, argv, opt->listen, &opt->listen_count);
			break;
		case 'x':
			add_endpoints('x', argc, argv, opt->backends, &opt->backend_count);
			break;
		case 'o':
			opt->log_path = optarg;
			break;
		case 'v':
			opt->statistics = true;
			break;
		case 'd':
			opt->debug = true;
			break;
		case 'k':
			opt->keepalive = true;
			break;
		case 'm':
			opt->mode = parse_mode(optarg);
			break;
		case 'h':
			say(usage, program_invocation_short_name);
			exit(0);
		case ':':
			fail(2, "-%c: the value is missing: -h shows what each option takes", optopt);
		default:
			fail(2, "-%c: no such option: give -w, -c, -a, -x, -m, -k, -v, -o, -d or -h",
			     optopt);
		}
	}
	if (optind < argc)
		fail(2, "%s: not an option: give -w, -c, -a, -x, -m, -k, -v, -o, -d or -h",
		     argv[optind]);

	if (!opt->listen_count)
		add_endpoint('a', "0.0.0.0:80", opt->listen, &opt->listen_count);
	refuse_duplicates(opt);
	complete_cores(opt, listed, online);
}
