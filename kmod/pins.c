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

#include <linux/capability.h>
#include <linux/cpuset.h>
#include <linux/cred.h>
#include <linux/hashtable.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/tracepoint.h>

#include "pins.h"
#include "resolve.h"

FSOCKET_KERNEL_FUNCTION(pins, cpuset_cpus_allowed);

/*
 * Locks, in this order: @lock, fsocket_pins_lock. No user of one worker's pin waits for
 * another's: set_cpus_allowed_ptr() sleeps until the task has left a CPU, and allocations
 * that are charged to a user sleep while his memory is reclaimed, so neither is done under
 * anything global.
 */
struct fsocket_pin {
	struct hlist_node node;
	struct task_struct *task;
	/* Around changes of the task's CPUs by the module. */
	struct mutex lock;
	/* The CPUs that @task could use before it was pinned; changed under both locks. */
	struct cpumask *allowed;
	/* Those that it gets back; under @lock. */
	struct cpumask *back;
	/* Calls of fsocket_unpin() that are owed; under @lock. */
	unsigned int users;
	/*
	 * The users, and the tasks that are about to take @lock; under fsocket_pins_lock.
	 * The pin is in the table while this is not 0.
	 */
	unsigned int refs;
	int cpu;
};

static DEFINE_HASHTABLE(fsocket_pins, 6);
/* Taken in process context only. */
static DEFINE_SPINLOCK(fsocket_pins_lock);

/* The mask that a child gets; under fsocket_pins_lock. */
static struct cpumask fsocket_childs;

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

/* Returns whether @pin is still what restricts its task. */
static bool fsocket_pin_holds(const struct fsocket_pin *pin)
{
	return cpumask_equal(&pin->task->cpus_mask, cpumask_of(READ_ONCE(pin->cpu)));
}

/* Stores in @mask what @task may use once it has the CPUs of @pin's worker. */
static void fsocket_pin_allowed(const struct fsocket_pin *pin, struct task_struct *task,
				struct cpumask *mask)
{
	/* The cpuset may have become narrower since the worker was pinned. */
	fsocket_kernel(pins, cpuset_cpus_allowed)(task, mask);
	if (cpumask_intersects(mask, pin->allowed))
		cpumask_and(mask, mask, pin->allowed);
}

/*
 * The new task @child may use what the worker might. Nobody moves a task that has not
 * run, so that it keeps its CPU, and set_cpus_allowed_ptr() does not sleep.
 */
static void fsocket_pin_lift(const struct fsocket_pin *pin, struct task_struct *child)
{
	if (!fsocket_pin_holds(pin))
		return;
	fsocket_pin_allowed(pin, child, &fsocket_childs);
	if (cpumask_test_cpu(task_cpu(child), &fsocket_childs))
		set_cpus_allowed_ptr(child, &fsocket_childs);
}

/*
 * The tracepoint calls this for each new task @child of @parent, which is current, before
 * @child has run.
 */
static void fsocket_forked(void *unused, struct task_struct *parent,
			   struct task_struct *child)
{
	struct fsocket_pin *pin;

	/* Almost all tasks take this way, which touches no cache line of this module. */
	if (likely(parent->nr_cpus_allowed != 1))
		return;
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(parent);
	if (pin)
		fsocket_pin_lift(pin, child);
	spin_unlock(&fsocket_pins_lock);
}

static void fsocket_pin_free(struct fsocket_pin *pin)
{
	if (!pin)
		return;
	put_task_struct(pin->task);
	kfree(pin->allowed);
	kfree(pin->back);
	kfree(pin);
}

static struct fsocket_pin *fsocket_pin_new(struct task_struct *task, int cpu)
{
	struct fsocket_pin *pin;

	pin = kzalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return NULL;
	pin->task = get_task_struct(task);
	pin->allowed = kzalloc(cpumask_size(), GFP_KERNEL_ACCOUNT);
	pin->back = kzalloc(cpumask_size(), GFP_KERNEL_ACCOUNT);
	if (!pin->allowed || !pin->back) {
		fsocket_pin_free(pin);
		return NULL;
	}
	cpumask_copy(pin->allowed, &task->cpus_mask);
	mutex_init(&pin->lock);
	pin->cpu = cpu;
	return pin;
}

/* The pin of @task, made if need be, with a reference; or NULL. */
static struct fsocket_pin *fsocket_pin_get(struct task_struct *task, int cpu)
{
	struct fsocket_pin *pin, *new;

	new = fsocket_pin_new(task, cpu);
	if (!new)
		return NULL;
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(task);
	if (!pin) {
		pin = new;
		new = NULL;
		hash_add(fsocket_pins, &pin->node, (unsigned long)task);
	}
	pin->refs++;
	spin_unlock(&fsocket_pins_lock);
	fsocket_pin_free(new);
	return pin;
}

static void fsocket_pin_put(struct fsocket_pin *pin)
{
	bool last;

	spin_lock(&fsocket_pins_lock);
	last = !--pin->refs;
	if (last)
		hash_del(&pin->node);
	spin_unlock(&fsocket_pins_lock);
	if (last)
		fsocket_pin_free(pin);
}

/*
 * Whether sched_setaffinity(2) lets current move @task without CAP_SYS_NICE: check_same_owner()
 * and cap_task_setscheduler(). A worker may have become a set-user-ID program.
 */
static bool fsocket_pin_permitted(struct task_struct *task)
{
	const struct cred *cred;
	bool permitted;

	rcu_read_lock();
	cred = __task_cred(task);
	permitted = (uid_eq(current_euid(), cred->euid) || uid_eq(current_euid(), cred->uid)) &&
		    cap_issubset(cred->cap_permitted, current_cred()->cap_permitted);
	rcu_read_unlock();
	return permitted;
}

static int fsocket_pinnable(struct task_struct *task)
{
	if (!fsocket_pin_permitted(task))
		return -EPERM;
	if (task->flags & PF_NO_SETAFFINITY)
		return -EINVAL;
	/* SCHED_DEADLINE admitted the task on the CPUs that it has. */
	return task->policy == SCHED_DEADLINE ? -EBUSY : 0;
}

/* Under the lock of @pin. */
static int fsocket_pin_to(struct fsocket_pin *pin, int cpu)
{
	int was, ret;

	spin_lock(&fsocket_pins_lock);
	/* The program or somebody else has changed the mask since. */
	if (!fsocket_pin_holds(pin))
		cpumask_copy(pin->allowed, &pin->task->cpus_mask);
	was = pin->cpu;
	WRITE_ONCE(pin->cpu, cpu);
	spin_unlock(&fsocket_pins_lock);

	ret = -EINVAL;
	if (cpumask_test_cpu(cpu, pin->allowed))
		ret = set_cpus_allowed_ptr(pin->task, cpumask_of(cpu));
	/* The task stays where an earlier call has pinned it, and is unpinned from there. */
	if (ret)
		WRITE_ONCE(pin->cpu, was);
	else
		pin->users++;
	return ret;
}

int fsocket_pin(struct task_struct *task, int cpu)
{
	struct fsocket_pin *pin;
	int ret;

	ret = fsocket_pinnable(task);
	if (ret)
		return ret;
	pin = fsocket_pin_get(task, cpu);
	if (!pin)
		return -ENOMEM;
	mutex_lock(&pin->lock);
	ret = fsocket_pin_to(pin, cpu);
	mutex_unlock(&pin->lock);
	/* After success the reference stays until fsocket_unpin(). */
	if (ret)
		fsocket_pin_put(pin);
	return ret;
}

void fsocket_unpin(struct task_struct *task)
{
	struct fsocket_pin *pin;

	/* It stays: the call that this one undoes has a reference. */
	spin_lock(&fsocket_pins_lock);
	pin = fsocket_pin_of(task);
	spin_unlock(&fsocket_pins_lock);
	if (WARN_ON_ONCE(!pin))
		return;
	mutex_lock(&pin->lock);
	if (!--pin->users && fsocket_pin_holds(pin)) {
		fsocket_pin_allowed(pin, task, pin->back);
		set_cpus_allowed_ptr(task, pin->back);
	}
	mutex_unlock(&pin->lock);
	/*
	 * Remove the pin only now, so that tasks which @task has created up to here still
	 * find it.
	 */
	fsocket_pin_put(pin);
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

int fsocket_pins_init(void)
{
	if (!fsocket_kernel_resolve(pins, cpuset_cpus_allowed)) {
		pr_err("this kernel's cpuset_cpus_allowed() cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	fsocket_process_fork = fsocket_find_tracepoint("sched_process_fork");
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
