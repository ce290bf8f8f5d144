// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of the network interfaces: each core should have a receive queue and
 * a send queue of its own, and their interrupts and packets should stay on it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define NET "/sys/class/net"

static cpu_set_t online;
static int cores;
static const struct nic *nics;
static int nic_count;

void doctor_begin_network(void)
{
	ctl_cpus_online(&online);
	cores = CPU_COUNT(&online);
	nics = doctor_nics(&nic_count);
}

/*
 * Returns whether RPS gives the packets of each queue to all cores, which makes up for
 * too few queues.
 */
static bool rps_to_all(const struct nic *nic)
{
	for (int queue = 0; queue < nic->rx; queue++) {
		cpu_set_t set;

		doctor_rps_cpus(nic, queue, &set);
		CPU_AND(&set, &set, &online);
		if (!CPU_EQUAL(&set, &online))
			return false;
	}
	return nic->rx > 0;
}

/* Returns whether some cores have workers, and all of these and no others handle the packets. */
static bool only_workers_receive(const struct nic *nic)
{
	cpu_set_t workers, receiving;
	int count;

	doctor_worker_cpus(&workers);
	count = CPU_COUNT(&workers);
	return count > 1 && count < cores && doctor_handling_cpus(nic, &receiving) == count &&
	       CPU_EQUAL(&workers, &receiving);
}

void doctor_queues(void)
{
	for (int i = 0; i < nic_count; i++) {
		const struct nic *nic = &nics[i];
		char *remedy;

		if (nic->rx >= cores || rps_to_all(nic) || only_workers_receive(nic))
			continue;
		remedy = ctl_format("ethtool -L %s combined %d; if the NIC has fewer (ethtool -l %s), let RPS give each queue's packets to all cores: " NET "/%s/queues/rx-*/rps_cpus",
				    nic->name, cores, nic->name, nic->name);
		doctor_finding(remedy, "%s has %d receive queue%s for %d cores: the other cores get no connections of their own",
			       nic->name, nic->rx, nic->rx == 1 ? "" : "s", cores);
		free(remedy);
	}
}

static void check_nic_interrupts(const struct nic *nic)
{
	int per_cpu[CPU_SETSIZE] = { 0 }, count, used = 0, fullest = 0, idle = -1;
	const int *cpus = doctor_queue_cpus(nic);
	int *irqs = doctor_receive_irqs(nic, &count);
	char *remedy;

	remedy = ctl_format("systemctl stop irqbalance; then give each core one: echo CORE > /proc/irq/N/smp_affinity_list, with N from:");
	for (int i = 0; i < count; i++) {
		int cpu = cpus[i];

		used += cpu >= 0 && !per_cpu[cpu]++;
		ctl_append(&remedy, " ", ctl_format("%d", irqs[i]));
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

void doctor_interrupts(void)
{
	for (int i = 0; i < nic_count; i++)
		if (nics[i].rx > 1)
			check_nic_interrupts(&nics[i]);
}

void doctor_rps(void)
{
	for (int i = 0; i < nic_count; i++) {
		int queue, moved = 0;
		cpu_set_t set;
		char *remedy;

		/* With fewer queues than cores, RPS is the remedy and not a finding. */
		if (nics[i].rx < cores)
			continue;
		for (queue = 0; queue < nics[i].rx; queue++) {
			doctor_rps_cpus(&nics[i], queue, &set);
			moved += CPU_COUNT(&set) > 0 && !doctor_moved_to_workers(&nics[i], queue);
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
		doctor_parse_mask(&set, mask);
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
		       nic->name, CPU_COUNT(&set), cores, doctor_first_cpu(&set));
	free(remedy);
}

void doctor_xps(void)
{
	/* With fewer queues than cores, cores have to share queues whatever XPS says. */
	for (int i = 0; i < nic_count; i++)
		if (nics[i].tx > 1 && nics[i].tx >= cores)
			check_nic_xps(&nics[i]);
}

/*
 * RFS sends packets to the CPU of the program that reads them, as Fastsocket does by
 * other means.
 */
void doctor_rfs(void)
{
	char *entries = ctl_read("/proc/sys/net/core/rps_sock_flow_entries");
	int steered = 0;

	for (int i = 0; i < nic_count; i++) {
		for (int queue = 0; queue < nics[i].rx; queue++) {
			char *flows = ctl_readf(NET "/%s/queues/rx-%d/rps_flow_cnt",
						nics[i].name, queue);

			steered += flows && strcmp(flows, "0");
			free(flows);
		}
	}
	if (entries && strcmp(entries, "0") && steered)
		doctor_finding("sysctl -w net.core.rps_sock_flow_entries=0",
			       "RFS is on for %d receive queue%s: it looks up each packet in a table that all cores write, for what Fastsocket does at the connection's first packet",
			       steered, steered == 1 ? "" : "s");
	free(entries);
}

/* Counts the programs that see each packet before TCP does. */
void doctor_programs(void)
{
	for (int i = 0; i < nic_count; i++) {
		char *link, *filters, *command;

		command = ctl_format("ip -d link show dev %s", nics[i].name);
		link = ctl_output(command);
		free(command);
		command = ctl_format("tc filter show dev %s ingress", nics[i].name);
		filters = ctl_output(command);
		free(command);
		if (!link || !filters)
			doctor_skip("%s: ip and tc do not tell of programs: install the package iproute2",
				    nics[i].name);
		else if (strstr(link, "prog/xdp"))
			doctor_finding("ip link set dev NAME xdp off, if it is not needed",
				       "%s has an XDP program: each packet passes it, and it may send packets to other cores",
				       nics[i].name);
		else if (*filters)
			doctor_finding("tc filter show dev NAME ingress; remove what is not needed",
				       "%s has tc filters at its ingress: each packet passes them",
				       nics[i].name);
		free(link);
		free(filters);
	}
}

