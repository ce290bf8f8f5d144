# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots of the server a run spreads its repetitions.

A boot shifts all that is measured in it, by about as much as rounds within it differ: so
rounds come from several. The lab is booted anew; other hosts at least get the module
loaded anew, which run.py does at each start. Where server_cores is workers, a boot has as
many cores as its repetitions have workers; where the kernel is a factor, a boot has one kernel.

Only an emulated server is counted. A lab that has KVM gets a boot of its own for what is counted,
before those for the rest ("apart"). The key counts of a boot's entry in run.json is true where
nothing else, and false where nothing of that kind can be measured.
"""
from typing import NamedTuple

# The limit of "rounds: auto", unless the profile has a rounds_max.
MOST_ROUNDS = 60
AS_WORKERS = "workers"


class Boot(NamedTuple):
    """What the server is booted with."""
    cores: int
    kernel: str | None      # None: any
    counts: bool            # under the emulator, for what is counted only

    def word(self):
        """CORES, CORES:KERNEL, CORES::tcg or CORES:KERNEL:tcg, for the playbook."""
        return ":".join([str(self.cores), self.kernel or "", "tcg" if self.counts else ""]
                        ).rstrip(":")


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


def is_counted(repetition):
    return str(repetition).startswith("c")


def boot_of(plan, repetition):
    """The number of the boot, from 1, in which a repetition is planned.

    Timed rounds are spread evenly, in their order. What is counted comes before them, in the
    first boot; what is watched after them, in the last. A resumed run may have had more.
    """
    boots = plan.get("boots", 1)
    if not repetition.isdigit():
        return 1 if is_counted(repetition) else boots
    most = most_rounds(plan)
    return 1 + (int(repetition) - 1) * min(boots, most) // most


def another(plan, step, had):
    """Returns whether a repetition needs a later boot than the last one of had, the list of boots
    in run.json."""
    counted = is_counted(step["repetition"])
    if had and had[-1].get("counts", counted) != counted:
        return True
    if by_workers(plan):
        return bool(had) and had[-1]["cores"] != int(step["workers"])
    if kernels(plan):
        return bool(had) and not runs(had[-1]["kernel"], kernel_of(plan, step))
    if counted:
        return not had
    return boot_of(plan, step["repetition"]) > sum(not boot.get("counts") for boot in had)


def _groups(plan, steps):
    """[(cores, kernel, repetitions)], each of one boot, or of all that profile's boots asks for."""
    if by_workers(plan):
        return [(workers, None, [step for step in steps if int(step["workers"]) == workers])
                for workers in sorted({int(step["workers"]) for step in steps})]
    return [(plan["server_cores"], kernel,
             [step for step in steps if kernel_of(plan, step) == kernel])
            for kernel in dict.fromkeys(kernel_of(plan, step) for step in steps)] or [
                (plan["server_cores"], None, [])]


def planned(plan, steps, apart=False):
    """A list of Boot: those that these repetitions are spread over."""
    found = []
    for cores, kernel, own in _groups(plan, steps):
        counted = [is_counted(step["repetition"]) for step in own] if apart else []
        found += [Boot(cores, kernel, True)] * any(counted)
        if not counted or not all(counted):
            found += [Boot(cores, kernel, False)] * plan.get("boots", 1)
    return found
