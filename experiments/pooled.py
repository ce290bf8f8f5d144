#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""One comparison over many runs: without, with, and what the kernel offers instead.

A run says what one boot of the server did, and boots differ. Here the same setups, known by
their settings, are gathered from all runs that measured them with ab -c 100 and 8 workers;
each boot of each run is one value of a ratio (see intervals.py).
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import contract
import intervals
import samples
import tables
from markdown import DASH, markdown, number, with_interval
from servers import DEFAULT, SERVERS
from study import Study

LOAD = ("ab", 100, 8)
# Runs on other kernels are compared by make compare, and not pooled with these.
KERNEL = "6.1."
# Heading and settings of a column; the first is what the others are compared with.
COLUMNS = [("without", {}), ("with Fastsocket", {"preload": True}),
           ("`SO_REUSEPORT`", {"mode": "reuseport"}),
           ("`SO_REUSEPORT` + cBPF", {"mode": "cbpf"})]
ROWS = ["demo", "nginx", "nginx-proxy", "haproxy"]
COUNTS = [("line transfers between cores per connection", "line_transfers_per_req", 0),
          ("kernel instructions per connection", "kernel_instructions_per_req", 0)]
# Keys of a setup that make the server another one.
KEYS = ("server", "command", "mode", "preload", "backend", "environment", "sysctls", "rfs",
        "rps", "halt_s", "kernel")
# Defaults of the module; a setup that names them is the same setup.
DEFAULTS = {"enable_listen_spawn": 2, "enable_fast_epoll": 1}


def settings(setup):
    """The settings of a setup, without its name: a dictionary."""
    told = {key: setup[key] for key in KEYS if setup.get(key)}
    parameters = {name: value for name, value in setup.get("parameters", {}).items()
                  if DEFAULTS.get(name) != value}
    if told.get("mode") == "shared":
        del told["mode"]
    if told.get("server") == DEFAULT:
        del told["server"]
    if told.get("backend") == "module":
        del told["backend"]
    return {**told, **({"parameters": parameters} if parameters else {})}


def cell_with(study, wanted):
    """The cell of LOAD whose setup has these settings, or None. The null cell is none."""
    for name, setup in study.plan["setups"].items():
        if settings(setup) == wanted and name != "again":
            cell = study.cell_of(LOAD, name)
            if cell:
                return cell
    return None


def read(runs):
    """Studies of the runs on KERNEL that have samples of LOAD."""
    found = [Study(run) for run in runs if contract.read_samples(run)]
    return [study for study in found if any(load == LOAD for load, _ in study.loads())
            and study.facts.get("server", {}).get("kernel", KERNEL).startswith(KERNEL)]


def ratio(studies, wanted, base, metric):
    """A Ratio whose boots are those of all runs, or None; and the number of runs."""
    logs, boots, runs = [], [], 0
    for study in studies:
        cells = cell_with(study, wanted), cell_with(study, base)
        if metric not in study.rows or not all(cells):
            continue
        pairs = samples.pairs(study.valid, *cells, metric)
        logs += list(pairs["ratio"])
        boots += [f"{study.run.name}/{boot}" for boot in pairs["boot"]]
        runs += bool(len(pairs))
    return (intervals.ratio(np.array(logs), boots), runs) if logs else (None, 0)


def counted(studies, wanted, metric, digits):
    """Text: the median of all counting repetitions, and their number."""
    values = [study.values(cell, metric) for study in studies
              for cell in [cell_with(study, wanted)] if cell and metric in study.rows]
    values = pd.concat(values) if values else []
    if not len(values):
        return DASH
    return f"{with_interval(*intervals.median(values), digits)} (n = {len(values)})"


def of(number_of, thing):
    return f"{number_of} {thing}{'s' if number_of != 1 else ''}"


def timed(found):
    """Texts of [(Ratio or None, number of runs)], with verdicts corrected for their number."""
    texts = []
    for (one, runs), word in zip(found, intervals.verdicts([one for one, _ in found])):
        told = f", {tables.wording(word)}" if word != "few" else ""
        texts.append(f"{with_interval(one.value, one.low, one.high, 2)}{told} (n = {one.n}, "
                     f"{of(one.boots, 'boot')}, {of(runs, 'run')})" if one else DASH)
    return texts


def table(runs):
    """Markdown: a row for each server and measure."""
    studies = [study for study in read(runs) if study.emulated()]
    counts, times, compared = [], [], []
    for server, title in ((name, SERVERS[name].title) for name in ROWS):
        columns = [(heading, {**({} if server == DEFAULT else {"server": server}), **wanted})
                   for heading, wanted in COLUMNS]
        base = columns[0][1]
        for heading, metric, digits in COUNTS:
            counts.append([f"{title}: {heading}", *(counted(studies, wanted, metric, digits)
                                                    for _, wanted in columns)])
        times.append([f"{title}: requests/s, ratio to without", number(1, 0)])
        times.append([f"{title}: with Fastsocket against each, same rounds", DASH, DASH])
        compared += [ratio(studies, wanted, base, "throughput_rps") for _, wanted in columns[1:]]
        compared += [ratio(studies, columns[1][1], wanted, "throughput_rps")
                     for _, wanted in columns[2:]]
    texts = iter(timed(compared))
    # Counts come first, since they do not depend on the machine.
    rows = counts + times
    for row in rows:
        row += [next(texts) for _ in range(len(columns) + 1 - len(row))]
    rows = [row for row in rows if any(text not in (DASH, "1") for text in row[1:])]
    text = markdown(["", *(heading for heading, _ in COLUMNS)], rows)
    return (f"{text}\n`ab -c {LOAD[1]}`, {LOAD[2]} workers on as many emulated cores, all "
            f"{len(studies)} committed runs that measured it. [ ]: 95 % interval; of ratios over "
            f"boots, which are the unit from {intervals.BOOTS} on. Verdicts after "
            "Holm's correction. Columns come from different "
            "runs: what is in one row may be compared with what it is a ratio to, not with its "
            "neighbour.\n")


def main():
    parser = argparse.ArgumentParser(description="Print one comparison over many runs.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    print(table(parser.parse_args().run), end="")


if __name__ == "__main__":
    main()
