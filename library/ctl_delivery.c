// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's check of cores that handle packets and have no worker. With fewer workers than
 * receive queues, connections that arrive on the other cores are served elsewhere, and
 * their sockets, packets and memory move between two cores. RPS can have these packets
 * handled on the workers' cores from the beginning.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define RPS_CPUS "/sys/class/net/%s/queues/rx-%d/rps_cpus"

static bool is_within(const cpu_set_t *set, const cpu_set_t *all)
{
	cpu_set_t both;

	CPU_AND(&both, set, all);
	return CPU_EQUAL(&both, set);
}

bool doctor_moved_to_workers(const struct nic *nic, int queue)
{
	int cpu = doctor_queue_cpus(nic)[queue];
	cpu_set_t workers, set;

	doctor_worker_cpus(&workers);
	return cpu >= 0 && !CPU_ISSET(cpu, &workers) && doctor_handled_on(nic, queue, &set) &&
	       is_within(&set, &workers);
}

/* Prints the CPU's mask as the kernel's files have it, in groups of 32. */
static char *mask_of(int cpu)
{
	char *mask = ctl_format("%x", 1u << cpu % 32), *longer;

	for (int group = cpu / 32; group > 0; group--) {
		longer = ctl_format("%s,00000000", mask);
		free(mask);
		mask = longer;
	}
	return mask;
}

/*
 * Returns the worker's CPU that handles the packets of the fewest queues, among those on
 * the NUMA node of @cpu if there is any.
 */
static int choose(const cpu_set_t *workers, const int *taken, int cpu)
{
	int best = -1, node = doctor_cpu_node(cpu);
	bool best_near = false;

	for (int own = 0; own < CPU_SETSIZE; own++) {
		bool near;

		if (!CPU_ISSET(own, workers))
			continue;
		near = doctor_cpu_node(own) == node;
		if (best >= 0 && (near < best_near || (near == best_near && taken[own] >= taken[best])))
			continue;
		best = own;
		best_near = near;
	}
	return best;
}

/* Reports the queues in @stray, of which each gets a worker's CPU, or stays on its own. */
static void report(const struct nic *nic, const int *cpus, const bool *stray,
		   const cpu_set_t *workers, int cores)
{
	char *names = NULL, *commands = NULL;
	int taken[CPU_SETSIZE] = { 0 };

	for (int queue = 0; queue < nic->rx; queue++)
		if (CPU_ISSET(cpus[queue], workers))
			taken[cpus[queue]]++;
	for (int queue = 0; queue < nic->rx; queue++) {
		bool own = CPU_ISSET(cpus[queue], workers);
		int to = own ? cpus[queue] : choose(workers, taken, cpus[queue]);
		char *mask = own ? ctl_format("0") : mask_of(to);

		taken[to] += !own;
		if (stray[queue]) {
			ctl_append(&names, ", ", ctl_format("rx-%d", queue));
			ctl_append(&commands, "; ", ctl_format("echo %s > " RPS_CPUS, mask, nic->name, queue));
		}
		free(mask);
	}
	doctor_finding(commands, "%s has receive queues on %d cores, and workers are on %d: packets of %s are handled on cores without a worker, so that all that belongs to their connections moves between cores",
		       nic->name, cores, CPU_COUNT(workers), names);
	free(names);
	free(commands);
}

static void check_nic(const struct nic *nic, const cpu_set_t *workers)
{
	bool *stray = ctl_alloc(NULL, nic->rx * sizeof(*stray));
	const int *cpus = doctor_queue_cpus(nic);
	int strays = 0;
	cpu_set_t interrupted, set;
	bool known = true;

	CPU_ZERO(&interrupted);
	for (int queue = 0; queue < nic->rx; queue++) {
		known &= doctor_handled_on(nic, queue, &set) && cpus[queue] >= 0;
		stray[queue] = !is_within(&set, workers);
		strays += stray[queue];
		if (cpus[queue] >= 0)
			CPU_SET(cpus[queue], &interrupted);
	}
	if (!known)
		doctor_skip("%s: which core the interrupt of each receive queue hits is not known",
			    nic->name);
	else if (strays && CPU_COUNT(workers) < CPU_COUNT(&interrupted)) {
		if (CPU_COUNT(workers) && doctor_worker_cpus_known())
			report(nic, cpus, stray, workers, CPU_COUNT(&interrupted));
		else
			doctor_skip("not all workers have a local listener, so that their cores are not known");
	}
	free(stray);
}

void doctor_delivery(void)
{
	const struct nic *nics;
	cpu_set_t workers;
	int count;

	if (!doctor_look_at_servers())
		return;
	nics = doctor_nics(&count);
	doctor_worker_cpus(&workers);
	for (int i = 0; i < count; i++) {
		char *path = ctl_format(RPS_CPUS, nics[i].name, 0);

		/* A kernel without RPS has no such file. */
		if (nics[i].rx > 1 && !access(path, F_OK))
			check_nic(&nics[i], &workers);
		free(path);
	}
}
