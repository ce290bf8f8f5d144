// SPDX-License-Identifier: GPL-2.0-only
/*
 * The network interfaces that belong to a device, and which cores their receive queues
 * interrupt: what several of doctor's checks ask.
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "ctl.h"

#define NET "/sys/class/net"

static cpu_set_t online;
static int cores;
static struct nic *nics;
static int nic_count;

void doctor_parse_mask(cpu_set_t *set, const char *mask)
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

int doctor_first_cpu(const cpu_set_t *set)
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

const struct nic *doctor_nics(int *count)
{
	*count = nic_count;
	return nics;
}

/* Finds the network interfaces that belong to a device and are not down. */
void doctor_find_nics(void)
{
	DIR *dir = ctl_opendir(NET);
	struct dirent *entry;

	ctl_cpus_online(&online);
	cores = CPU_COUNT(&online);
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

void doctor_rps_cpus(const struct nic *nic, int queue, cpu_set_t *set)
{
	char *mask = ctl_readf(NET "/%s/queues/rx-%d/rps_cpus", nic->name, queue);

	CPU_ZERO(set);
	if (mask)
		doctor_parse_mask(set, mask);
	free(mask);
}

static bool receives(const char *action)
{
	return !strstr(action, "config") && !strstr(action, "output") &&
	       (strstr(action, "input") || strcasestr(action, "rx") || strstr(action, "comp"));
}

/* Returns whether the interrupt is one of a receive queue of @nic. */
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
		cpu = doctor_first_cpu(&set);
		if (CPU_COUNT(&set) == 1)
			break;
	}
	return cpu;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int *doctor_receive_irqs(const struct nic *nic, int *count)
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

const int *doctor_queue_cpus(const struct nic *nic)
{
	struct nic *own = &nics[nic - nics];
	int count, *irqs;

	if (own->cpus)
		return own->cpus;
	own->cpus = ctl_alloc(NULL, (nic->rx + 1) * sizeof(*own->cpus));
	irqs = doctor_receive_irqs(nic, &count);
	for (int queue = 0; queue < nic->rx; queue++)
		own->cpus[queue] = queue < count ? irq_cpu(irqs[queue]) : -1;
	free(irqs);
	return own->cpus;
}

bool doctor_handled_on(const struct nic *nic, int queue, cpu_set_t *set)
{
	int cpu = doctor_queue_cpus(nic)[queue];

	doctor_rps_cpus(nic, queue, set);
	CPU_AND(set, set, &online);
	if (!CPU_COUNT(set) && cpu >= 0)
		CPU_SET(cpu, set);
	return CPU_COUNT(set) > 0;
}

int doctor_handling_cpus(const struct nic *nic, cpu_set_t *all)
{
	bool known = true;

	CPU_ZERO(all);
	for (int queue = 0; queue < nic->rx; queue++) {
		cpu_set_t set;

		known &= doctor_handled_on(nic, queue, &set);
		CPU_OR(all, all, &set);
	}
	return known ? CPU_COUNT(all) : -1;
}

int doctor_receive_queues(void)
{
	int most = 0;

	for (int i = 0; i < nic_count; i++) {
		cpu_set_t set;
		int receiving = doctor_handling_cpus(&nics[i], &set);

		/* RPS may have fewer cores handle the packets than there are queues. */
		if (receiving < 0 || receiving > nics[i].rx)
			receiving = nics[i].rx;
		if (receiving > most)
			most = receiving;
	}
	return most < cores ? most : cores;
}
