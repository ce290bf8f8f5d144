# SPDX-License-Identifier: GPL-2.0-only
"""A run's samples: decides which repetitions count, and which pairs are compared."""
import numpy as np
import pandas as pd

import contract
import verdicts

# Kinds of repetitions that are not timed, by the first letter of their names.
KINDS = {"p": "profiles", "l": "locks", "c": "counts"}
# Columns among the metrics that are words.
TEXTS = {"counts_source"}
# Reasons for which older versions marked repetitions as invalid that now are degraded at most.
SECOND_SYN = r"^(\d+) connections waited for a second SYN$"


def kind(repetition):
    return KINDS.get(repetition[0], "timed")


def boots_of(orders, boots):
    """The number of the boot, from 1, of each place in the order."""
    return np.searchsorted([boot["first_order"] for boot in boots], orders, side="right")


def judged_again(rows):
    """Until 26 November 2026 repetitions that waited for a second SYN were invalid, and repeated.

    That flatters the setups that lose more SYNs. Here the first attempt counts, marked as
    degraded where the share of its SYNs is above what is tolerated by now.
    """
    syns = rows["invalid_reason"].str.extract(SECOND_SYN)[0].astype(float)
    voided = syns.notna()
    if not voided.any():
        return rows
    share = syns / rows["requests"].clip(lower=1)
    marked = voided & (share > verdicts.SYN_TOLERATED)
    rows.loc[voided, "valid"] = 1
    rows.loc[marked, "degraded"] = [f"{100 * one:.2f} % of the connections waited for a second SYN"
                                    for one in share[marked]]
    later = rows[rows["valid"] == 1].duplicated(["cell", "repetition"])
    return rows.drop(index=later[later].index)


def read(run):
    """A DataFrame of samples.csv, in the order measured, with three columns more:

    kind    "timed", "profiles", "locks" or "counts"
    boot    number of the server's boot, from 1
    round   repetition and boot: only samples of one label are compared
    Rows have numbers where the columns are, NaN where nothing was measured.
    """
    facts = contract.read_run(run)
    plan = facts["plan"]
    rows = pd.DataFrame(contract.read_samples(run))
    rows = rows.reindex(columns=contract.sample_columns(plan["factors"])).fillna("")
    for name in ("order", "valid", *contract.METRICS):
        if name not in TEXTS:
            rows[name] = pd.to_numeric(rows[name], errors="coerce")
    for factor, levels in plan["factors"].items():
        if all(isinstance(level, int) for level in levels):
            rows[factor] = rows[factor].astype(int)
    rows = judged_again(rows)
    rows["kind"] = rows["repetition"].map(kind)
    rows["boot"] = boots_of(rows["order"], facts.get("boots", []))
    rows["round"] = rows["repetition"] + "/" + rows["boot"].astype(str)
    return rows


def baseline(plan, cell, rows):
    """The name of the cell that a cell, a mapping of its factors, is compared with; or None."""
    sought = {**{factor: cell[factor] for factor in plan["factors"]}, **plan["baseline"]}
    sought["setup"] = plan["setups"][cell["setup"]].get("baseline", sought["setup"])
    found = rows[np.logical_and.reduce([rows[name] == value for name, value in sought.items()])]
    return found["cell"].iloc[0] if len(found) else None


def pairs(rows, cell, base, metric):
    """Valid repetitions of two cells in the same round and boot: a row each, with columns
    repetition, boot, order and ratio; where either is 0 there is none.

    Of timed repetitions, if these have the metric, else of those that watch.
    """
    valid = rows[(rows["valid"] == 1) & rows[metric].notna() & rows["cell"].isin([cell, base])]
    if (valid["kind"] == "timed").any():
        valid = valid[valid["kind"] == "timed"]
    own, other = (valid[valid["cell"] == name].set_index("round") for name in (cell, base))
    joined = own[["repetition", "boot", "order", metric]].join(
        other[[metric]], rsuffix="_base", how="inner")
    joined = joined[(joined[metric] > 0) & (joined[f"{metric}_base"] > 0)]
    joined["ratio"] = joined[metric] / joined[f"{metric}_base"]
    return joined
