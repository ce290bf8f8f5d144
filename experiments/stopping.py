# SPDX-License-Identifier: GPL-2.0-only
"""rounds: auto. Decides when a run has had enough timed rounds.

A run that stops as soon as an interval happens to be narrow has intervals that are too
narrow: so it has to be narrow after two rounds in a row, and not before FIRST rounds.
tests/pure/test_stopping.py simulates how much of the 95 % remains.
"""
import boots as boots_of
import contract
import intervals
import samples as samples_of

FIRST = 8
TARGET_PCT = 5


def narrow(ratios, boots, target):
    """Whether the interval of these ratios reaches no farther than target %."""
    if len(ratios) < intervals.SMALLEST:
        return False
    return intervals.width(intervals.ratio(ratios, boots)) <= target


def decisive(plan, rows):
    """(cell, baseline cell) of the ratio that decides, as far as there are samples; or None."""
    wanted = plan.get("decides", {})
    for cell in rows.drop_duplicates("cell").to_dict("records"):
        base = samples_of.baseline(plan, cell, rows)
        if base and base != cell["cell"] and cell["setup"] != "again" and all(
                cell[factor] == level for factor, level in wanted.items()):
            return cell["cell"], base
    return None


def end(run, plan, rounds):
    """{"round", "why"} when no round after this one is wanted, else None.

    rounds: how many are finished.
    """
    most, target = boots_of.most_rounds(plan), plan.get("target_pct", TARGET_PCT)
    if rounds < FIRST:
        return None
    rows = samples_of.read(run)
    # Cells in the order of the plan, not in the shuffled order.
    order = {step["cell"]: i for i, step in enumerate(contract.read_plan(run))}
    rows = rows.sort_values("cell", key=lambda column: column.map(order), kind="stable")
    pair = decisive(plan, rows)
    if pair:
        pairs = samples_of.pairs(rows, *pair, "throughput_rps")
        pairs = pairs[pairs["repetition"].astype(int) <= rounds].sort_values("order")
        ratios, boots = list(pairs["ratio"]), list(pairs["boot"])
        if all(narrow(ratios[:n], boots[:n], target) for n in (len(ratios), len(ratios) - 1)):
            return {"round": rounds, "why": f"the interval of {pair[0]} to {pair[1]} is within "
                                            f"{target} % after {rounds} rounds"}
    if rounds >= most:
        return {"round": rounds, "why": f"the bound of {most} rounds is reached, and the interval "
                                        f"is wider than {target} %"}
    return None
