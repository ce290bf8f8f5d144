// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of the processor's topology: whether workers are on the NUMA node of the
 * network interface, and on cores of their own. What the kernel calls a CPU is a thread of
 * a core here, where it matters (SMT).
 */
#include <dirent.h>
#include <stdlib.h>

#include "ctl.h"

static int nic_node(char **name)
{
	const struct nic *nics;
	int count;

	nics = doctor_nics(&count);
	for (int i = 0; i < count; i++) {
		char *text = ctl_readf("/sys/class/net/%s/device/numa_node", nics[i].name);
		int node;

		/* A virtio device has its parent's, the PCI device's. */
		if (!text)
			text = ctl_readf("/sys/class/net/%s/device/../numa_node", nics[i].name);
		node = text ? atoi(text) : -1;
		free(text);
		*name = nics[i].name;
		if (node >= 0)
			return node;
	}
	return -1;
}

int doctor_cpu_node(int cpu)
{
	char *path = ctl_format("/sys/devices/system/cpu/cpu%d", cpu);
	DIR *dir = ctl_opendir(path);
	struct dirent *entry;
	int node = -1;

	while (dir && (entry = readdir(dir)))
		if (sscanf(entry->d_name, "node%d", &node) == 1)
			break;
	if (dir)
		closedir(dir);
	free(path);
	return node;
}

void doctor_node(void)
{
	int far = 0, last = -1, node;
	cpu_set_t workers;
	char *nic;

	node = nic_node(&nic);
	if (node < 0)
		return;
	doctor_worker_cpus(&workers);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &workers) && doctor_cpu_node(cpu) != node) {
			far++;
			last = cpu;
		}
	if (far)
		doctor_finding("run the server's workers, and the interrupts, on the cores of that node: numactl --cpunodebind=NODE, or AllowedCPUs= in its unit",
			       "%s belongs to NUMA node %d, and workers are on %d core%s of another, core %d for one",
			       nic, node, far, far == 1 ? "" : "s", last);
}

/* Stores in @threads the online CPUs that are threads of the same core as @cpu. */
static void siblings(int cpu, const cpu_set_t *online, cpu_set_t *threads)
{
	char *list = ctl_readf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);

	CPU_ZERO(threads);
	if (list)
		ctl_cpu_list(threads, list);
	CPU_AND(threads, threads, online);
	CPU_SET(cpu, threads);
	free(list);
}

void doctor_siblings(void)
{
	cpu_set_t workers, online, threads, used;
	int unused = 0, shared = 0, one = -1;
	char *list = NULL, *remedy;

	doctor_worker_cpus(&workers);
	ctl_cpus_online(&online);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &online))
			continue;
		siblings(cpu, &online, &threads);
		/* Each core is looked at once, by its first thread. */
		if (doctor_first_cpu(&threads) != cpu)
			continue;
		ctl_append(&list, ",", ctl_format("%d", cpu));
		CPU_AND(&used, &threads, &workers);
		unused += !CPU_COUNT(&used);
		if (CPU_COUNT(&used) < 2)
			continue;
		shared++;
		one = cpu;
	}
	remedy = ctl_format("AllowedCPUs=%s in the server's unit, and the interrupts of as many receive queues on these CPUs", list);
	if (shared && unused)
		doctor_finding(remedy, "several workers share a core, by its threads, on %d core%s, that of CPU %d for one, while %d core%s no worker",
			       shared, shared == 1 ? "" : "s", one, unused,
			       unused == 1 ? " has" : "s have");
	free(remedy);
	free(list);
}
