# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots of the server a run spreads its repetitions.

A boot shifts all that is measured in it, by about as much as rounds within it differ: so
rounds come from several. The lab is booted anew; other hosts at least get the module
loaded anew, which run.py does at each start.
"""
import plan as plans


def boot_of(plan, repetition):
    """The number of the boot, from 1, in which a repetition is planned.

    Timed rounds are spread evenly, in their order. What is counted comes before them, in the
    first boot; what is watched after them, in the last. A resumed run may have had more.
    """
    boots = plan.get("boots", 1)
    if not repetition.isdigit():
        return 1 if repetition.startswith("c") else boots
    most = plans.most_rounds(plan)
    return 1 + (int(repetition) - 1) * min(boots, most) // most
