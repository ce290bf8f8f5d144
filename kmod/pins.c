// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pins: which workers run on one CPU because the module says so.
 *
 * A pin is the module's affair and concerns its worker only. What the worker
 * creates, a child, a thread, a program by way of either, gets the CPUs that the
 * worker had before: the tracepoint sched_process_fork() tells of each new task
 * before it runs for the first time, however it was created. The mask that a program
 * has set itself (user_cpus_ptr since 6.2) is never touched.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuset.h>
#include <linux/cred.h>
#include <linux/hashtable.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/tracepoint.h>

#include "pins.h"
#include "resolve.h"

FSOCKET_KERNEL_FUNCTION(pins, cpuset_cpus_allowed);

struct fsocket_pin {
	struct hlist_node node;
	struct task_struct *task;
	/* What @task might use before. */
	struct cpumask *allowed;
	unsigned int users;
	int cpu;
};

static DEFINE_HASHTABLE(fsocket_pins, 6);
/* Taken in process context only. */
static DEFINE_SPINLOCK(fsocket_pins_lock);

/* Where the mask is made that a task gets back; under fsocket_pins_lock. */
static struct cpumask fsocket_lifted;

static struct tracepoint *fsocket_process_fork;

static struct fsocket_pin *fsocket_pin_of(const struct task_struct *task)
{
	struct fsocket_pin *pin;

	hash_for_each_possible(fsocket_pins, pin, node, (unsigned long)task) {
		if (pin->task == task)
			return pin;
	}
	return NULL;
}

/* Whether @pin still is what restricts its task. */
static bool fsocket_pin_holds(const struct fsocket_pin *pin)
{
	return cpumask_equal(&pin->task->cpus_mask, cpumask_of(pin->cpu));
}

/*
 * @task, on the CPU of @pin, may use what the worker might. It does not have to
 * move for that, so this does not sleep.
 */
static void fsocket_pin_lift(const struct fsocket_pin *pin, struct task_struct *task)
{
	if (!fsocket_pin_holds(pin))
		return;
	/* The cpuset may have become narrower since. */
	fsocket_kernel(pins, cpuset_cpus_allowed)(task, &fsocket_lifted);
	if (cpumask_intersects(&fsocket_lifted, pin->allowed))
		cpumask_and(&fsocket_lifted, &fsocket_lifted, pin->allowed);
	if (cpumask_test_cpu(task_cpu(task), &fsocket_lifted))
		set_cpus_allowed_ptr(task, &fsocket_lifted);
}

/* @child of @parent, which is current, has not run yet. */
static void fsocket_forked(void *unused, struct task_struct *parent,
			   struct task_struct *child)
{
	struct fsocket_pin *pin;

	/* As almost all are; no line of ours is touched. */
	if (likely(parent->nr_cpus_allowed != 1))
		return;
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(parent);
	if (pin)
		fsocket_pin_lift(pin, child);
	spin_unlock(&fsocket_pins_lock);
}

static struct fsocket_pin *fsocket_pin_new(struct task_struct *task, int cpu)
{
	struct fsocket_pin *pin;

	pin = kzalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return NULL;
	pin->allowed = kzalloc(cpumask_size(), GFP_KERNEL_ACCOUNT);
	if (!pin->allowed) {
		kfree(pin);
		return NULL;
	}
	cpumask_copy(pin->allowed, &task->cpus_mask);
	pin->task = get_task_struct(task);
	pin->cpu = cpu;
	return pin;
}

static void fsocket_pin_free(struct fsocket_pin *pin)
{
	if (!pin)
		return;
	put_task_struct(pin->task);
	kfree(pin->allowed);
	kfree(pin);
}

/* What sched_setaffinity(2) of current would refuse. */
static int fsocket_pinnable(struct task_struct *task)
{
	if (!uid_eq(task_uid(task), current_uid()))
		return -EPERM;
	if (task->flags & PF_NO_SETAFFINITY)
		return -EINVAL;
	/* Its admission counted on the CPUs that it has. */
	return task->policy == SCHED_DEADLINE ? -EBUSY : 0;
}

int fsocket_pin(struct task_struct *task, int cpu)
{
	struct fsocket_pin *pin, *new;
	int ret;

	ret = fsocket_pinnable(task);
	if (ret)
		return ret;
	new = fsocket_pin_new(task, cpu);
	if (!new)
		return -ENOMEM;
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(task);
	if (!pin) {
		pin = new;
		new = NULL;
		hash_add(fsocket_pins, &pin->node, (unsigned long)task);
	} else if (!fsocket_pin_holds(pin)) {
		/* Somebody else has changed it since. */
		cpumask_copy(pin->allowed, &task->cpus_mask);
	}
	pin->users++;
	pin->cpu = cpu;
	ret = cpumask_test_cpu(cpu, pin->allowed) ? 0 : -EINVAL;
	spin_unlock(&fsocket_pins_lock);
	fsocket_pin_free(new);

	if (!ret)
		ret = set_cpus_allowed_ptr(task, cpumask_of(cpu));
	if (ret)
		fsocket_unpin(task);
	return ret;
}

void fsocket_unpin(struct task_struct *task)
{
	struct fsocket_pin *pin;

	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(task);
	if (!pin || --pin->users) {
		spin_unlock(&fsocket_pins_lock);
		return;
	}
	hash_del(&pin->node);
	fsocket_pin_lift(pin, task);
	spin_unlock(&fsocket_pins_lock);
	fsocket_pin_free(pin);
}

void fsocket_pins_allowed(struct cpumask *allowed)
{
	struct fsocket_pin *pin;

	cpumask_copy(allowed, &current->cpus_mask);
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(current);
	if (pin && fsocket_pin_holds(pin))
		cpumask_copy(allowed, pin->allowed);
	spin_unlock(&fsocket_pins_lock);
}

static void fsocket_find_process_fork(struct tracepoint *tp, void *unused)
{
	if (!strcmp(tp->name, "sched_process_fork"))
		fsocket_process_fork = tp;
}

int fsocket_pins_init(void)
{
	if (!fsocket_kernel_resolve(pins, cpuset_cpus_allowed)) {
		pr_err("this kernel's cpuset_cpus_allowed() cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	/* Its symbol is not exported. */
	for_each_kernel_tracepoint(fsocket_find_process_fork, NULL);
	if (!fsocket_process_fork) {
		pr_err("this kernel has no tracepoint sched_process_fork\n");
		return -EOPNOTSUPP;
	}
	return tracepoint_probe_register(fsocket_process_fork, fsocket_forked, NULL);
}

void fsocket_pins_exit(void)
{
	tracepoint_probe_unregister(fsocket_process_fork, fsocket_forked, NULL);
	tracepoint_synchronize_unregister();
}
