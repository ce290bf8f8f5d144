// SPDX-License-Identifier: GPL-2.0-only
/*
 * A worker of the kernel backend runs on one CPU. The program does not see this:
 * threads, children and programs that the worker starts may run on all CPUs that the
 * program has chosen. A new thread inherits the CPUs of its creator, so the library
 * unpins a worker before it starts one, and pins it again when it next waits for
 * connections.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "real.h"

static __thread cpu_set_t own __attribute__((tls_model("initial-exec")));
static __thread int pinned __attribute__((tls_model("initial-exec"))) = -1;
static __thread bool lifted __attribute__((tls_model("initial-exec")));

/*
 * The C library reads the number from /sys. Where a worker cannot read that, as in a chroot, it
 * returns how many CPUs the thread may run on, and a worker is pinned to one. So the number is
 * read once, when the group is made; children have it, too.
 */
int fsocket_cpus(void)
{
	static atomic_int known;
	int cpus = atomic_load(&known);

	if (!cpus) {
		cpus = sysconf(_SC_NPROCESSORS_CONF);
		if (cpus < 1 || cpus > GROUP_CPUS)
			cpus = GROUP_CPUS;
		atomic_store(&known, cpus);
	}
	return cpus;
}

static bool get(cpu_set_t *set)
{
	CPU_ZERO(set);
	return RAW3(SYS_sched_getaffinity, 0, sizeof(*set), set) > 0;
}

/* Returns false if the CPU is none that the kernel lets this thread run on. */
static bool set_only(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	/* A filter of system calls has other errors, and concerns all CPUs. */
	return RAW3(SYS_sched_setaffinity, 0, sizeof(set), &set) != -EINVAL;
}

/*
 * Returns whether the library's pin still holds: the program or another one may have
 * set another mask.
 */
static bool ours(void)
{
	cpu_set_t now;

	return get(&now) && CPU_COUNT(&now) == 1 && CPU_ISSET(pinned, &now);
}

void fsocket_pin_allowed(cpu_set_t *set)
{
	if (pinned >= 0 && (lifted || ours()))
		*set = own;
	else
		get(set);
}

bool fsocket_pin(int cpu)
{
	cpu_set_t now;

	if (pinned == cpu && !lifted && ours())
		return true;
	if (pinned < 0 || (!lifted && !ours())) {
		pinned = -1;
		if (!get(&now) || CPU_COUNT(&now) <= 1)
			return true;
		own = now;
	}
	if (!set_only(cpu))
		return false;
	pinned = cpu;
	lifted = false;
	return true;
}

void fsocket_pin_lift(void)
{
	if (pinned < 0 || lifted)
		return;
	if (ours())
		RAW3(SYS_sched_setaffinity, 0, sizeof(own), &own);
	lifted = true;
}

void fsocket_pin_again(void)
{
	cpu_set_t now;

	if (pinned < 0 || !lifted)
		return;
	lifted = false;
	/* If the program has changed the mask meanwhile, the program's mask holds. */
	if (get(&now) && CPU_EQUAL(&now, &own))
		set_only(pinned);
	else
		pinned = -1;
}

void fsocket_pin_end(void)
{
	fsocket_pin_lift();
	pinned = -1;
	lifted = false;
}
