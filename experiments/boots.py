# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots of the server a run spreads its repetitions.

A boot shifts all that is measured in it, by about as much as rounds within it differ: so
rounds come from several. The lab is booted anew; other hosts at least get the module
loaded anew, which run.py does at each start. Where server_cores is workers, a boot has as
many cores as its repetitions have workers.
"""
# With rounds: auto, unless the profile says otherwise.
MOST_ROUNDS = 60
AS_WORKERS = "workers"


def most_rounds(plan):
    """As many timed rounds as the plan has steps for."""
    return plan.get("rounds_max", MOST_ROUNDS) if plan["rounds"] == "auto" else plan["rounds"]


def by_workers(plan):
    return plan["server_cores"] == AS_WORKERS


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
    """Whether a repetition is planned for a later boot than the last of those that were had:
    a list of run.json's."""
    if by_workers(plan):
        return bool(had) and had[-1]["cores"] != int(step["workers"])
    return boot_of(plan, step["repetition"]) > len(had)


def cores(plan, steps):
    """The server's cores in each boot that these repetitions are spread over."""
    if by_workers(plan):
        return sorted({int(step["workers"]) for step in steps})
    return [plan["server_cores"]] * plan.get("boots", 1)
