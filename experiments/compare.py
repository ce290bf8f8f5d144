#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Compares two runs: before and after, two commits, two kernels, two hosts.

What differs between the hosts comes first. Then, for each cell that both runs have,

  counts   B's to A's: they do not depend on how busy a machine was
  times    the ratio to the baseline in B divided by that in A, both within rounds, so effects
           of the machine on a whole run cancel. The requests/s of the baseline itself show
           whether it has changed, or whether the machine was slower

--check makes it a test: exit status 1 when a count of B is above its limit times A's, when a
ratio is worse by a verdict, or when the runs have nothing in common that could be compared. The
status is 2, with and without --check, when there are no two runs.
"""
import argparse
import collections
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import contract
import intervals
import places
import samples
import tables
from markdown import DASH, markdown, number
from raws import Raw
from study import AGAIN, Study

Count = collections.namedtuple("Count", "heading digits limit least")
# These are the limits of the ratios of two runs of the same software: of medians, or of the
# least repetitions, since other programs on the server's host only add instructions. The
# kernel's counts include the idle loops and the ticks, of which a slow machine has more.
COUNTS = {"line_transfers_per_req": Count("line transfers", 1, 1.05, False),
          "kernel_instructions_per_req": Count("kernel instructions", 0, 1.05, False),
          "user_instructions_per_req": Count("user instructions, least of all", 0, 1.03, True)}
# The exit status where there is nothing to compare.
CANNOT = 2
# The number of functions of a profile that are shown.
MOST = 12
# Two boots always differ in these.
OF_ONE_BOOT = {"boot_id", "first_order"}


def hosts_of(facts):
    """{part of run.json: values by name} of what can be the same in two runs."""
    parts = {"server": facts.get("server", {}),
             "server_settings": facts.get("server_settings", {})}
    generators = contract.generators(facts)
    for i, own in enumerate(generators, 1):
        parts[f"loadgen {i}" if len(generators) > 1 else "loadgen"] = own
    if "sources" in facts:
        parts["sources"] = {f"of loadgen {i}": ", ".join(own)
                            for i, own in enumerate(facts["sources"], 1)}
    boots = facts.get("boots", [])
    names = {name for boot in boots for name in boot} - OF_ONE_BOOT
    parts["boots"] = {name: "; ".join(dict.fromkeys(
        str(boot[name]) for boot in boots if name in boot)) for name in names}
    return parts


def flat(facts):
    """Names and values of the hosts' facts, the commit and the plan's size in run.json."""
    found = {f"{part} {name}": str(value) for part, values in hosts_of(facts).items()
             for name, value in values.items()}
    for name in ("git_commit", "git_dirty", "inventory"):
        found[name] = str(facts.get(name, DASH))
    for name in ("rounds", "requests", "seconds", "warmup_requests"):
        found[name] = str(facts["plan"].get(name, DASH))
    return found


def apart(name, left, right):
    """The two values of a fact; of the emulator's options, which are many, those that differ."""
    if name != "boots emulator":
        return left, right
    # The name of a socket has a number that the checkout's folder decides.
    options = [re.split(r" (?=-[a-z])", re.sub(r"\bfsb-[0-9a-f]{8}", "fsb", text))
               for text in (left, right)]
    return [" ".join(option for option in own if option not in other) or DASH
            for own, other in (options, options[::-1])]


def differences(a, b):
    """A table of the facts that differ, or None."""
    left, right = flat(a.facts), flat(b.facts)
    pairs = {name: apart(name, left.get(name, DASH), right.get(name, DASH))
             for name in sorted({*left, *right})}
    rows = [[name, *pair] for name, pair in pairs.items() if pair[0] != pair[1]]
    return markdown(["what differs", "A", "B"], rows) if rows else None


def common(a, b):
    """[(cell, cell of B)] of the same name, the null cell left out."""
    names = set(b.cells["cell"])
    return [cell for cell in a.cells.to_dict("records")
            if cell["cell"] in names and cell["setup"] != AGAIN]


def counts(a, b):
    """[(cell, Count, A's, B's, ratio of B to A, Ratio of their means)]."""
    found = []
    for cell in common(a, b):
        for metric, count in COUNTS.items():
            if metric not in a.rows:
                continue
            pair = [study.values(cell["cell"], metric) if metric in study.rows else []
                    for study in (a, b)]
            if all(map(len, pair)):
                left, right = (one.min() if count.least else one.median() for one in pair)
                found.append((cell["cell"], count, number(left, count.digits),
                              number(right, count.digits), right / left,
                              means(a, b, cell["cell"], metric)))
    return found


def means(a, b, cell, metric):
    """Returns the Ratio of B's geometric mean of a count to A's, or None where a value is 0, as
    line transfers on one core are."""
    logs = []
    for study in (b, a):
        own = study.own(cell, "counts")
        own = own[own[metric].notna()]
        if not (own[metric] > 0).all():
            return None
        logs += [np.log(own[metric].to_numpy(dtype=float)), list(own["boot"])]
    return intervals.between(*logs) if len(logs[0]) and len(logs[2]) else None


def told(found):
    """[(text, word)] of the Ratios of counts(): with its interval, and the verdict."""
    ratios = [one for *_, one in found]
    return [(tables.ratio_text(one), tables.wording(word, ("more", "fewer")))
            if one and one.low is not None else (DASH, DASH)
            for one, word in zip(ratios, intervals.verdicts(ratios))]


def logs_of(study, cell, base):
    """(logarithms of ratios to the baseline, their boots); of the baseline its own rates."""
    if base == cell:
        own = study.own(cell, "timed")
        own = own[own["throughput_rps"] > 0]
        return np.log(own["throughput_rps"].to_numpy()), list(own["boot"])
    pairs = samples.pairs(study.valid, cell, base, "throughput_rps")
    return np.log(pairs["ratio"].to_numpy()), list(pairs["boot"])


def times(a, b):
    """[(cell, what is compared, Ratio of B to A)]."""
    found = []
    for cell in common(a, b):
        bases = [study.baseline(cell) for study in (a, b)]
        if bases[0] != bases[1] or bases[0] is None:
            continue
        left, right = (logs_of(study, cell["cell"], bases[0]) for study in (a, b))
        if len(left[0]) and len(right[0]):
            what = ("requests/s" if bases[0] == cell["cell"]
                    else f"requests/s, ratio to {bases[0]}")
            found.append((cell["cell"], what, intervals.between(*right, *left)))
    return found


def judged(found):
    """Adds a word to each of times(); a baseline gets none: it does not judge the software."""
    words = intervals.verdicts([None if what == "requests/s" else one
                                for _, what, one in found])
    return [(cell, what, one, None if what == "requests/s" else word)
            for (cell, what, one), word in zip(found, words)]


def profiles(a, b):
    """Tables of the difference between the profiles, one for each cell that both runs have
    profiled.
    """
    raws, found = [Raw(study.run) for study in (a, b)], []
    for cell in common(a, b):
        (before, n_before), (after, n_after) = (
            places.profile(study, raw, cell["cell"]) for study, raw in zip((a, b), raws))
        rows = [[f"`{symbol}`", *texts] for symbol, *texts in
                places.profile_differences(before, after)[:MOST]]
        if before and after and rows:
            found.append(markdown(
                [f"{cell['cell']}: function", f"A, % of busy samples (n = {n_before})",
                 f"B, % (n = {n_after})", "difference"], rows))
    return found


def report(a, b, profiled=True):
    """(the comparison as Markdown, with tables of the profiles if profiled; sentences on what
    became worse, or None where the runs have nothing in common).
    """
    parts = [f"A: `{a.plan['experiment']}/{a.run.name}`, {a.host()}\n\n"
             f"B: `{b.plan['experiment']}/{b.run.name}`, {b.host()}\n",
             differences(a, b) or "The hosts, the commit and the sizes are the same.\n"]
    counted, timed, worse = counts(a, b), judged(times(a, b)), []
    if counted:
        parts.append(markdown(
            ["cell", f"per {a.each()}", "A", "B", "B / A", "of means, B / A", "verdict"],
            [[cell, count.heading, left, right, number(value, 2), *texts]
             for (cell, count, left, right, value, _), texts in zip(counted, told(counted))]))
        worse += [f"{cell}: {count.heading.split(',')[0]} per {a.each()} "
                  f"{number(value, 2)} times A's"
                  for cell, count, _, _, value, _ in counted if value > count.limit]
    if timed:
        parts.append(markdown(["cell", "", "B / A", "verdict", "n, of each at least"], [
            [cell, what, tables.ratio_text(one), tables.wording(word), str(one.n)]
            for cell, what, one, word in timed]))
        worse += [f"{cell}: {what} {tables.ratio_text(one)} times A's"
                  for cell, what, one, word in timed if word == "below"]
    parts += profiles(a, b) if profiled else []
    if not (counted or timed):
        parts.append("The runs have no cell in common: give two runs of one experiment, "
                     "ls -d results/*/* lists them.\n")
    parts.append(f"[ ]: 95 % interval, none below n = {intervals.SMALLEST}; verdicts after Holm's "
                 "correction. Two runs are two boots at least: with fewer than "
                 f"{intervals.BOOTS} in each, times may differ for that alone.\n")
    return "\n".join(parts), worse if counted or timed else None


def committed(run):
    """Returns whether git knows the run's samples."""
    return subprocess.run(["git", "-C", run, "ls-files", "--error-unmatch", "samples.csv"],
                          capture_output=True, check=False).returncode == 0


def reference(run):
    """Returns the newest other run of the same experiment, or None. Committed runs come before
    others, so that a check in CI does not depend on what else was measured in the checkout."""
    found = [path for path in sorted(run.parent.glob("*T*Z"))
             if path != run and contract.read_samples(path)]
    return max(found, key=lambda path: (committed(path), path.name), default=None)


def chosen(given):
    """[A, B] of one or two paths; ValueError or OSError says what is wrong."""
    runs = [path.resolve() for path in given]
    for run in runs:
        contract.known(run)
    if len(runs) == 1:
        runs.insert(0, reference(runs[0]))
    if len(runs) != 2 or runs[0] is None:
        raise ValueError("give two runs' folders, A and B, or B alone where its experiment has "
                         "another run")
    for run in runs:
        if not contract.read_samples(run):
            raise ValueError(f"{run} has no samples: give a run that was measured; "
                             "ls -d results/*/* lists them")
    return runs


def main():
    parser = argparse.ArgumentParser(description="Compare two runs.")
    parser.add_argument("run", type=Path, nargs="+",
                        help="A and B; B alone is compared with the newest other committed run")
    parser.add_argument("--check", action="store_true",
                        help="exit status 1 when B is worse than A")
    args = parser.parse_args()
    try:
        runs = chosen(args.run)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(CANNOT)
    text, worse = report(*map(Study, runs))
    print(text, end="")
    if worse:
        print("\nworse in B: " + "; ".join(worse))
    # A check that compared nothing has not passed.
    if args.check and (worse or worse is None):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(CANNOT)
