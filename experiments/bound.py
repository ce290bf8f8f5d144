#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A model: how many connections per second the counts of a run allow on a real machine.

  core     a core spends its instructions, and waits for each line that it has to fetch:
           1 / (instructions / rate + transfers * time per transfer)
  line     a line can be in one place at a time: the machine makes no more connections than
           1 / (transfers of the most-moved line * time per transfer)
  bound    the lesser of cores * core and line

The counts are taken as they are, though both grow with the number of cores where a line is
fought over: docs/bound.md lists all assumptions. The result is a bound, not a forecast.
"""
import argparse
import sys
from pathlib import Path

import counted
from markdown import DASH, markdown, number
from study import AGAIN, Study

# Instructions per second of a core: 3 GHz at one instruction per cycle, of kernel code.
RATE = 3e9
# The time of a transfer from another core's cache, s, within a socket of a server of today.
TRANSFER_S = 100e-9
CORES = (8, 24, 64, 192)


def limits(instructions, transfers, hottest, rate=RATE, transfer_s=TRANSFER_S):
    """Connections/s of a core, and of the machine by its most-moved line (None: no limit)."""
    core = 1 / (instructions / rate + transfers * transfer_s)
    return core, 1 / (hottest * transfer_s) if hottest else None


def bound(cores, core, line):
    """Connections/s of a machine, and what limits them: "cores" or "line"."""
    if line is not None and line < cores * core:
        return line, "line"
    return cores * core, "cores"


def hottest_lines(study):
    """{cell: (name of the line that moves most, transfers per connection)}."""
    found = {}
    for cell, lines in counted.single_lines(counted.read_lines(study)).items():
        (_, what), value = max(lines.items(), key=lambda item: (item[1], item[0]))
        found[cell] = what, value
    return found


def thousands(value):
    return number(value / 1000, 0) + " K"


def table(study, rate=RATE, transfer_s=TRANSFER_S):
    """Markdown: a row for each cell that was counted, the null cell left out; or None."""
    hottest, rows, each = hottest_lines(study), [], study.each()
    for cell in study.cells.to_dict("records"):
        name = cell["cell"]
        counts = [study.median(name, metric) if metric in study.rows else None
                  for metric in ("kernel_instructions_per_req", "user_instructions_per_req",
                                 counted.LINES)]
        if cell["setup"] == AGAIN or not (counts[0] and counts[2] and name in hottest):
            continue
        kernel, user, transfers = (one[0] if one else 0 for one in counts)
        place, moves = hottest[name]
        core, line = limits(kernel + user, transfers, moves, rate, transfer_s)
        texts = []
        for cores in CORES:
            value, what = bound(cores, core, line)
            texts.append(thousands(value) + " (line)" * (what == "line"))
        rows.append([study.title(cell["setup"]), str(cell["workers"]), number(kernel + user, 0),
                     number(transfers, 0), f"{place}: {number(moves, 1)}", thousands(core),
                     thousands(line) if line else DASH, *texts])
    return markdown(
        ["setup", "cores counted on", f"instructions per {each}", "line transfers",
         "most-moved line: its transfers", f"limit of a core, {each}s/s",
         f"limit of the line, {each}s/s", *(f"{cores} cores" for cores in CORES)],
        rows) if rows else None


def main():
    parser = argparse.ArgumentParser(
        description="Print what the counts of a run allow on a real machine: a model.")
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--rate", type=float, default=RATE,
                        help="instructions per second of a core (default: %(default).0f)")
    parser.add_argument("--transfer-ns", type=float, default=1e9 * TRANSFER_S,
                        help="time of a line from another core's cache (default: %(default).0f)")
    args = parser.parse_args()
    text = table(Study(args.run), args.rate, args.transfer_ns / 1e9)
    if not text:
        sys.exit(f"bound: {args.run.name} has no counts: plan a run with counting repetitions")
    print(text, end="")


if __name__ == "__main__":
    main()
