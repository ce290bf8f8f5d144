# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots of the server a run spreads its repetitions.

A boot shifts all that is measured in it, by about as much as rounds within it differ: so
rounds come from several. The lab is booted anew; other hosts at least get the module
loaded anew, which run.py does at each start. Where server_cores is workers, a boot has as
many cores as its repetitions have workers; where the kernel is a factor, a boot has one kernel.
"""
# The limit of "rounds: auto", unless the profile has a rounds_max.
MOST_ROUNDS = 60
AS_WORKERS = "workers"


def most_rounds(plan):
    """Returns the number of timed rounds for which the plan has steps."""
    return plan.get("rounds_max", MOST_ROUNDS) if plan["rounds"] == "auto" else plan["rounds"]


def by_workers(plan):
    return plan["server_cores"] == AS_WORKERS


def kernel_of(plan, step):
    """The kernel that a repetition is for, or None: any."""
    return plan["setups"][step["setup"]].get("kernel")


def kernels(plan):
    """Those that are measured, in the order of their boots."""
    return list(dict.fromkeys(setup["kernel"] for setup in plan["setups"].values()
                              if "kernel" in setup))


def runs(release, kernel):
    return release.startswith(f"{kernel}.")


def boot_of(plan, repetition):
    """The number of the boot, from 1, in which a repetition is planned.

    Timed rounds are spread evenly, in their order. What is counted comes before them, in the
    first boot; what is watched after them, in the last. A resumed run may have had more.
    """
    boots = plan.get("boots", 1)
    if not repetition.isdigit():
        return 1 if repetition.startswith("c") else boots
    most = most_rounds(plan)
    return 1 + (int(repetition) - 1) * min(boots, most) // most


def another(plan, step, had):
    """Returns whether a repetition needs a later boot than the last one of had, the list of boots
    in run.json."""
    if by_workers(plan):
        return bool(had) and had[-1]["cores"] != int(step["workers"])
    if kernels(plan):
        return bool(had) and not runs(had[-1]["kernel"], kernel_of(plan, step))
    return boot_of(plan, step["repetition"]) > len(had)


def cores(plan, steps):
    """The server's cores in each boot that these repetitions are spread over."""
    if by_workers(plan):
        return sorted({int(step["workers"]) for step in steps})
    return [plan["server_cores"]] * (len(dict.fromkeys(kernel_of(plan, step) for step in steps))
                                     if kernels(plan) else plan.get("boots", 1))


def words(plan, steps):
    """For the playbook, each of these boots as CORES, or CORES:KERNEL."""
    if not kernels(plan):
        return list(map(str, cores(plan, steps)))
    return [f"{plan['server_cores']}:{kernel}"
            for kernel in dict.fromkeys(kernel_of(plan, step) for step in steps)]
