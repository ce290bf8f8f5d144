// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl doctor checks, one after the other, for conditions that keep Fastsocket
 * from helping, and prints the remedy of each. Fastsocket gives each core connections of
 * its own, so most checks ask whether the network gives each core packets of its own.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "ctl.h"

#define NET "/sys/class/net"

struct nic {
	char *name;
	int rx, tx;	/* queues */
};

enum state { OK, FINDING, SKIPPED };

static cpu_set_t online;
static int cores;
static struct nic *nics;
static int nic_count;

static struct json json;
/* The item being checked; whether a line was printed for it; the number of findings. */
static const char *item;
static bool said;
static int findings;

static void report(enum state state, const char *text, const char *remedy)
{
	static const char *const names[] = {
		[OK] = "ok", [FINDING] = "finding", [SKIPPED] = "skipped",
	};

	said = true;
	if (ctl_json) {
		json_open(&json, NULL, '{');
		json_string(&json, "item", item);
		json_string(&json, "state", names[state]);
		json_string(&json, "text", text);
		json_string(&json, "remedy", remedy);
		json_close(&json, '}', false);
		return;
	}
	printf("%-8s %-13s ", names[state], item);
	ctl_put_plain(text);
	printf("\n");
	if (remedy)
		printf("%22s  remedy: %s\n", "", remedy);
}

void doctor_finding(const char *remedy, const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		ctl_fail(CTL_FAILED, "out of memory");
	va_end(args);
	report(FINDING, text, remedy);
	findings++;
	free(text);
}

void doctor_skip(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		ctl_fail(CTL_FAILED, "out of memory");
	va_end(args);
	report(SKIPPED, text, NULL);
	free(text);
}

/* Parses a mask such as "ff,00000001": groups of 32 bits, the lowest CPUs last. */
static void parse_mask(cpu_set_t *set, const char *mask)
{
	size_t cpu = 0;

	CPU_ZERO(set);
	for (const char *at = mask + strlen(mask); at-- > mask;) {
		char digit[2] = { *at };
		int bits = strtol(digit, NULL, 16);

		if (*at == ',')
			continue;
		for (int i = 0; i < 4; i++, cpu++)
			if (bits & 1 << i && cpu < CPU_SETSIZE)
				CPU_SET(cpu, set);
	}
}

static int first_cpu(const cpu_set_t *set)
{
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, set))
			return cpu;
	return -1;
}

static int count_entries(const char *path, const char *prefix)
{
	DIR *dir = ctl_opendir(path);
	struct dirent *entry;
	int count = 0;

	if (!dir)
		return 0;
	while ((entry = readdir(dir)))
		count += !strncmp(entry->d_name, prefix, strlen(prefix));
	closedir(dir);
	return count;
}

/* Finds the network interfaces that belong to a device and are not down. */
static void find_nics(void)
{
	DIR *dir = ctl_opendir(NET);
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char *device = ctl_format(NET "/%s/device", entry->d_name);
		char *state = ctl_readf(NET "/%s/operstate", entry->d_name);
		char *queues = ctl_format(NET "/%s/queues", entry->d_name);

		if (entry->d_name[0] != '.' && !access(device, F_OK) && state &&
		    strcmp(state, "down")) {
			nics = ctl_alloc(nics, (nic_count + 1) * sizeof(*nics));
			nics[nic_count++] = (struct nic){
				.name = ctl_format("%s", entry->d_name),
				.rx = count_entries(queues, "rx-"),
				.tx = count_entries(queues, "tx-"),
			};
		}
		free(device);
		free(state);
		free(queues);
	}
	if (dir)
		closedir(dir);
}

static void check_module(void)
{
	char *mode;

	if (!module_loaded()) {
		doctor_finding("modprobe fastsocket", "the module is not loaded");
		return;
	}
	mode = ctl_read("/sys/module/fastsocket/parameters/enable_listen_spawn");
	if (mode && !strcmp(mode, "0"))
		doctor_finding("fsocketctl set enable_listen_spawn=2",
			       "local listeners are switched off: enable_listen_spawn=0");
	free(mode);
}

/* Stores in @set the CPUs to which RPS moves the packets of the receive queue @queue. */
static void rps_cpus(const struct nic *nic, int queue, cpu_set_t *set)
{
	char *mask = ctl_readf(NET "/%s/queues/rx-%d/rps_cpus", nic->name, queue);

	CPU_ZERO(set);
	if (mask)
		parse_mask(set, mask);
	free(mask);
}

/* Whether RPS gives the packets of each queue to all cores, which makes up for too few queues. */
static bool rps_to_all(const struct nic *nic)
{
	for (int queue = 0; queue < nic->rx; queue++) {
		cpu_set_t set;

		rps_cpus(nic, queue, &set);
		CPU_AND(&set, &set, &online);
		if (!CPU_EQUAL(&set, &online))
			return false;
	}
	return nic->rx > 0;
}

static void check_queues(void)
{
	for (int i = 0; i < nic_count; i++) {
		const struct nic *nic = &nics[i];
		char *remedy;

		if (nic->rx >= cores || rps_to_all(nic))
			continue;
		remedy = ctl_format("ethtool -L %s combined %d; where the NIC has not so many (ethtool -l %s), let RPS give each queue's packets to all cores: " NET "/%s/queues/rx-*/rps_cpus",
				    nic->name, cores, nic->name, nic->name);
		doctor_finding(remedy, "%s has %d receive queue%s for %d cores: the other cores get no connections of their own",
			       nic->name, nic->rx, nic->rx == 1 ? "" : "s", cores);
		free(remedy);
	}
}

static bool receives(const char *action)
{
	return !strstr(action, "config") && !strstr(action, "output") &&
	       (strstr(action, "input") || strcasestr(action, "rx") || strstr(action, "comp"));
}

/* Whether the interrupt is one of a receive queue of @nic. */
static bool is_receive_irq(const struct nic *nic, int irq)
{
	/* The interrupts of a virtio device belong to its parent, the PCI device. */
	static const char *const places[] = { "device", "device/.." };
	char *path = ctl_format("/proc/irq/%d", irq);
	bool belongs = false, found = false;
	struct dirent *entry;
	DIR *dir;

	for (int i = 0; i < 2; i++) {
		char *msi = ctl_format(NET "/%s/%s/msi_irqs/%d", nic->name, places[i], irq);

		belongs |= !access(msi, F_OK);
		free(msi);
	}
	/* /proc/irq/N has a folder for each handler, with the name that the driver gave it. */
	dir = belongs ? ctl_opendir(path) : NULL;
	while (dir && (entry = readdir(dir)))
		found |= entry->d_type == DT_DIR && receives(entry->d_name);
	if (dir)
		closedir(dir);
	free(path);
	return found;
}

/* Returns the CPU that receives the interrupt: the lowest allowed one, or -1 if it is unknown. */
static int irq_cpu(int irq)
{
	static const char *const files[] = { "smp_affinity_list", "effective_affinity_list" };
	cpu_set_t set;
	int cpu = -1;

	for (int i = 0; i < 2; i++) {
		char *list = ctl_readf("/proc/irq/%d/%s", irq, files[i]);

		if (!list)
			continue;
		ctl_cpu_list(&set, list);
		free(list);
		cpu = first_cpu(&set);
		if (CPU_COUNT(&set) == 1)
			break;
	}
	return cpu;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/*
 * Returns the interrupts of the receive queues of @nic, by number. Drivers keep the
 * interrupts of unused queues too; the queues in use have the lowest numbers.
 */
static int *receive_irqs(const struct nic *nic, int *count)
{
	DIR *dir = ctl_opendir("/proc/irq");
	struct dirent *entry;
	int *list = NULL;

	*count = 0;
	while (dir && (entry = readdir(dir))) {
		int irq = atoi(entry->d_name);

		if (entry->d_name[0] < '0' || entry->d_name[0] > '9' || !is_receive_irq(nic, irq))
			continue;
		list = ctl_alloc(list, (*count + 1) * sizeof(*list));
		list[(*count)++] = irq;
	}
	if (dir)
		closedir(dir);
	if (*count)
		qsort(list, *count, sizeof(*list), by_number);
	if (*count > nic->rx)
		*count = nic->rx;
	return list;
}

static void check_nic_interrupts(const struct nic *nic)
{
	int per_cpu[CPU_SETSIZE] = { 0 }, count, used = 0, fullest = 0, idle = -1;
	int *irqs = receive_irqs(nic, &count);
	char *remedy, *longer;

	remedy = ctl_format("systemctl stop irqbalance; then give each core one: echo CORE > /proc/irq/N/smp_affinity_list, with N from:");
	for (int i = 0; i < count; i++) {
		int cpu = irq_cpu(irqs[i]);

		used += cpu >= 0 && !per_cpu[cpu]++;
		longer = ctl_format("%s %d", remedy, irqs[i]);
		free(remedy);
		remedy = longer;
	}
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (per_cpu[cpu] > per_cpu[fullest])
			fullest = cpu;
		if (idle < 0 && CPU_ISSET(cpu, &online) && !per_cpu[cpu])
			idle = cpu;
	}
	if (!count)
		doctor_skip("%s: none of its interrupts can be told to be a receive queue's", nic->name);
	else if (per_cpu[fullest] > 1 && idle >= 0)
		doctor_finding(remedy, "%s: the interrupts of %d receive queues go to %d core%s: core %d gets those of %d, core %d none",
			       nic->name, count, used, used == 1 ? "" : "s", fullest,
			       per_cpu[fullest], idle);
	free(remedy);
	free(irqs);
}

static void check_interrupts(void)
{
	for (int i = 0; i < nic_count; i++)
		if (nics[i].rx > 1)
			check_nic_interrupts(&nics[i]);
}

static void check_rps(void)
{
	for (int i = 0; i < nic_count; i++) {
		int queue, moved = 0;
		cpu_set_t set;
		char *remedy;

		/* With fewer queues than cores, RPS is the remedy and not a finding. */
		if (nics[i].rx < cores)
			continue;
		for (queue = 0; queue < nics[i].rx; queue++) {
			rps_cpus(&nics[i], queue, &set);
			moved += CPU_COUNT(&set) > 0;
		}
		if (!moved)
			continue;
		remedy = ctl_format("for f in " NET "/%s/queues/rx-*/rps_cpus; do echo 0 > $f; done",
				    nics[i].name);
		doctor_finding(remedy, "%s: RPS moves the packets of %d receive queue%s to other cores, though each core has a queue",
			       nics[i].name, moved, moved == 1 ? "" : "s");
		free(remedy);
	}
}

static void check_nic_xps(const struct nic *nic)
{
	cpu_set_t own, set;
	char *remedy;

	CPU_ZERO(&own);
	for (int queue = 0; queue < nic->tx; queue++) {
		char *mask = ctl_readf(NET "/%s/queues/tx-%d/xps_cpus", nic->name, queue);

		if (!mask) {
			doctor_skip("%s: its XPS cannot be read: %s", nic->name, strerror(errno));
			return;
		}
		parse_mask(&set, mask);
		free(mask);
		if (CPU_COUNT(&set) == 1)
			CPU_OR(&own, &own, &set);
	}
	CPU_XOR(&set, &own, &online);
	CPU_AND(&set, &set, &online);
	if (!CPU_COUNT(&set))
		return;
	remedy = ctl_format("for each core I: echo MASK > " NET "/%s/queues/tx-I/xps_cpus, where MASK has bit I alone (hexadecimal: 1, 2, 4, 8, 10, ...)",
			    nic->name);
	doctor_finding(remedy, "%s: %d of %d cores have no send queue of their own (XPS), core %d for one",
		       nic->name, CPU_COUNT(&set), cores, first_cpu(&set));
	free(remedy);
}

static void check_xps(void)
{
	/* With fewer queues than cores, cores have to share queues whatever XPS says. */
	for (int i = 0; i < nic_count; i++)
		if (nics[i].tx > 1 && nics[i].tx >= cores)
			check_nic_xps(&nics[i]);
}

static int count_text(const char *text, const char *what)
{
	int count = 0;

	while ((text = strstr(text, what))) {
		text += strlen(what);
		count++;
	}
	return count;
}

static void check_firewall(void)
{
	static const char *const legacy[] = { "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names" };
	char *rules;

	if (geteuid()) {
		doctor_skip("only root may list firewall rules");
		return;
	}
	for (int i = 0; i < 2; i++) {
		rules = ctl_read(legacy[i]);
		if (rules && *rules)
			doctor_finding("remove what is not needed: iptables-legacy-save shows it",
				       "iptables (legacy) is loaded, and every packet passes its rules");
		free(rules);
	}
	/* Running nft would load the kernel module nf_tables. */
	if (access("/sys/module/nf_tables", F_OK))
		return;
	rules = ctl_output("nft list ruleset");
	if (!rules)
		doctor_skip("nft cannot list the rules: install the package nftables");
	else if (count_text(rules, " hook "))
		doctor_finding("remove what is not needed: nft list ruleset shows it",
			       "firewall rules are loaded, and packets pass their %d chains",
			       count_text(rules, " hook "));
	free(rules);
}

static void check_conntrack(void)
{
	char *count = ctl_read("/proc/sys/net/netfilter/nf_conntrack_count");

	if (count)
		doctor_finding("remove the rules that need it (ct, nat, iptables -m state), then modprobe -r nf_conntrack",
			       "connection tracking is loaded (%s connections): its table is shared by all cores",
			       count);
	free(count);
}

static void check_clock(void)
{
	static const char *const slow[] = { "hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies" };
	char *clock = ctl_read("/sys/devices/system/clocksource/clocksource0/current_clocksource");

	if (!clock) {
		doctor_skip("the clock source cannot be read");
		return;
	}
	for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
		if (!strcmp(clock, slow[i]))
			doctor_finding("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; if the kernel does not offer it: boot with tsc=reliable, if the TSC can be trusted",
				       "the clock source is %s, which is slow to read, one core at a time",
				       clock);
	free(clock);
}

static void check_governor(void)
{
	char *odd = NULL;
	int count = 0;

	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		char *governor;

		if (!CPU_ISSET(cpu, &online))
			continue;
		governor = ctl_readf("/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu);
		if (governor && strcmp(governor, "performance")) {
			if (!count++)
				odd = governor;
		}
		if (governor != odd)
			free(governor);
	}
	if (count)
		doctor_finding("for f in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; do echo performance > $f; done",
			       "the frequency governor of %d core%s is not performance, but %s: idle cores slow down",
			       count, count == 1 ? "" : "s", odd);
	free(odd);
}

static const struct {
	const char *name;
	void (*check)(void);
	const char *ok;
} items[] = {
	{ "module", check_module, "loaded, local listeners are on" },
	{ "queues", check_queues, "every core has a receive queue, or RPS makes up for it" },
	{ "interrupts", check_interrupts, "each receive queue interrupts a core of its own" },
	{ "rps", check_rps, "packets stay on the core of their queue" },
	{ "xps", check_xps, "each core has a send queue of its own, or there are too few" },
	{ "firewall", check_firewall, "no rules" },
	{ "conntrack", check_conntrack, "connections are not tracked" },
	{ "workers", doctor_workers, "each server with Fastsocket has several workers" },
	{ "pinning", doctor_pinning, "each of their workers has a core of its own" },
	{ "accept-mutex", doctor_accept_mutex, "no nginx has its workers take turns" },
	{ "clock", check_clock, "the clock source is a fast one" },
	{ "governor", check_governor, "cores do not slow down, as far as the kernel decides" },
};

int ctl_doctor(char **argv)
{
	if (argv[0])
		ctl_fail(CTL_USAGE, "%s: doctor takes no argument", argv[0]);
	ctl_cpus_online(&online);
	cores = CPU_COUNT(&online);
	find_nics();

	json.out = ctl_json_out;
	if (ctl_json) {
		json_open(&json, NULL, '{');
		json_open(&json, "items", '[');
	}
	for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++) {
		item = items[i].name;
		said = false;
		items[i].check();
		if (!said)
			report(OK, items[i].ok, NULL);
	}
	if (ctl_json) {
		json_close(&json, ']', false);
		json_integer(&json, "findings", findings);
		json_close(&json, '}', true);
	}
	return findings ? CTL_FAILED : 0;
}
