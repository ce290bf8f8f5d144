// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl doctor checks, one after the other, for conditions that keep Fastsocket
 * from helping, and prints the remedy of each. Fastsocket gives each core connections of
 * its own, so most checks ask whether the network gives each core packets of its own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

static cpu_set_t online;

static void check_module(void)
{
	char *mode;
	int count;

	if (!module_loaded()) {
		doctor_groups(&count);
		if (count)
			doctor_fine("not loaded, and %d listener%s served by the kernel backend, which does without",
				    count, count == 1 ? " is" : "s are");
		else
			doctor_finding("modprobe fastsocket", "the module is not loaded");
		return;
	}
	mode = ctl_read("/sys/module/fastsocket/parameters/enable_listen_spawn");
	if (mode && !strcmp(mode, "0"))
		doctor_finding("fsocketctl set enable_listen_spawn=2",
			       "local listeners are switched off: enable_listen_spawn=0");
	free(mode);
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
	{ "queues", doctor_queues, "every core has a receive queue, or RPS makes up for it" },
	{ "interrupts", doctor_interrupts, "each receive queue interrupts a core of its own" },
	{ "rps", doctor_rps, "packets stay on the core of their queue, or move from a core without a worker to one with" },
	{ "rfs", doctor_rfs, "RFS is off: Fastsocket serves the same purpose" },
	{ "xps", doctor_xps, "each core has a send queue of its own, or there are too few" },
	{ "programs", doctor_programs, "no XDP program or tc filter sees the packets first" },
	{ "irqbalance", doctor_irqbalance, "irqbalance does not move interrupts" },
	{ "firewall", check_firewall, "no rules" },
	{ "conntrack", check_conntrack, "connections are not tracked" },
	{ "workers", doctor_workers, "each server with Fastsocket has several workers" },
	{ "delivery", doctor_delivery, "packets are handled on cores with workers, or there are more of these than queues" },
	{ "pinning", doctor_pinning, "each of their workers has a core of its own" },
	{ "cpus", doctor_cpus, "their control groups may use all cores, all of the time" },
	{ "sockets", doctor_sockets, "the kernel backend, where it is used, has a socket for each core" },
	{ "migrate", doctor_migrate, "no server of the kernel backend loses waiting connections when it ends" },
	{ "node", doctor_node, "workers are on the NUMA node of the interface, or there is one only" },
	{ "siblings", doctor_siblings, "no two workers share a core by its threads while another core has none" },
	{ "accept-mutex", doctor_accept_mutex, "no nginx has its workers take turns" },
	{ "multi-queue", doctor_multi_queue, "no HAProxy hands connections to other threads" },
	{ "preload", doctor_preload, "each program that is to have the library has it, and the device" },
	{ "overflows", doctor_overflows, "no accept queue is full at this moment" },
	{ "drops", doctor_drops, "no core drops packets at this moment" },
	{ "locality", doctor_locality, "connections are accepted where they arrive, at this moment" },
	{ "clock", check_clock, "the clock source is a fast one" },
	{ "governor", check_governor, "cores do not slow down, as far as the kernel decides" },
};

int ctl_doctor(char **argv)
{
	if (argv[0])
		ctl_fail(CTL_USAGE, "%s: doctor takes no argument", argv[0]);
	ctl_cpus_online(&online);
	doctor_find_nics();
	doctor_begin_network();
	doctor_begin();
	for (size_t i = 0; i < sizeof(items) / sizeof(items[0]); i++)
		doctor_check(items[i].name, items[i].check, items[i].ok);
	return doctor_end() ? CTL_FAILED : 0;
}
