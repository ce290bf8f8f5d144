#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Summarises a run's samples.csv: summary.csv, tables/*.md, and the tables on stdout.

summary.csv has a row for each cell: the factors; n_valid, n_invalid and n_degraded (timed
repetitions; the degraded ones are among the valid); n_profiles, n_locks and n_counts (valid
repetitions that watched); and for every metric of samples.csv
  METRIC                 the median of the timed repetitions, or of those that watched
  METRIC_lo, METRIC_hi   its 95 % interval; empty below 6 repetitions
  METRIC_ratio           geometric mean of the ratios to the baseline cell in the same round
  METRIC_ratio_lo, _hi   its 95 % interval; empty below 6 rounds
The methods are those of intervals.py.
"""
import argparse
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

import contract
import samples
import search
import tables
import verdicts
from study import Study

# The sentence with which the playbook fails begins with this.
NOTHING = "nothing could be counted or timed"


def summary_row(study, cell):
    """cell: a row of study.cells, as a dictionary."""
    row = {**cell, **study.numbers(cell["cell"])}
    base = study.baseline(cell)
    for metric in contract.METRICS:
        if metric in samples.TEXTS:
            row[metric] = next(filter(None, study.own(cell["cell"])[metric]), None)
            continue
        names = [metric, f"{metric}_lo", f"{metric}_hi"]
        row.update(zip(names, study.median(cell["cell"], metric) or [None] * 3))
        one = study.ratio(cell["cell"], base, metric)
        row.update({f"{metric}_ratio": one and one.value, f"{metric}_ratio_lo": one and one.low,
                    f"{metric}_ratio_hi": one and one.high})
    return row


def summarise(study):
    """summary.csv as a DataFrame."""
    return pd.DataFrame([summary_row(study, cell) for cell in study.cells.to_dict("records")])


def lacking(study):
    """One sentence on planned repetitions that no attempt could give, or None.

    It begins with NOTHING if there is not one count or time that was planned.
    """
    facts, had = study.facts, set(zip(study.valid["cell"], study.valid["repetition"]))
    last = contract.last_round(facts)
    wanted = {(step["cell"], step["repetition"]) for step in contract.read_plan(study.run)
              if not (last and step["repetition"].isdigit() and int(step["repetition"]) > last)}
    lost = wanted - had
    if not lost or contract.unfinished(study.run):
        return None
    rows = [row for row in study.rows[study.rows["valid"] == 0].to_dict("records")
            if (row["cell"], row["repetition"]) in lost]
    reasons = Counter(tables.short_reason(row["invalid_reason"]) for row in rows)
    (reason, _), *_ = reasons.most_common(1)
    remedy = ("measure again when the machine has less else to do (-e fresh=true), or allow more "
              "attempts (-e '{\"sweep_set\": [\"attempts=6\"]}')")
    if reason.startswith(verdicts.SHORT_OF_LOAD):
        remedy = (search.remedies(facts, rows) or f"{remedy}; or let the suite look for a load "
                  "that is enough (-e '{\"sweep_set\": [\"search=1\"]}')")
    answers = {step for step in wanted if samples.kind(step[1]) in ("counts", "timed")}
    nothing = f"{NOTHING}: " if answers and answers <= lost else ""
    return (f"{nothing}{len(lost)} of {len(wanted)} repetitions could not be had, most often "
            f"because {reason}: {remedy}")


def finished(study):
    """Says what is missing; a complete run becomes results/latest."""
    left = len(contract.unfinished(study.run))
    if left:
        print(f"\n{left} repetitions are missing: the run is not complete")
        return
    sentence = lacking(study)
    if sentence:
        print(f"\n{sentence}")
    link = study.run.parent.parent / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(Path(study.plan["experiment"], study.run.name))


def main():
    parser = argparse.ArgumentParser(
        description="Summarise runs: summary.csv and tables/*.md from samples.csv.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    for run in parser.parse_args().run:
        contract.known(run)
        if not contract.read_samples(run):
            print(f"{run.name}: no repetition has finished yet, so there are no tables; make "
                  "sweep begins or continues a run")
            continue
        study = Study(run)
        # If one cannot be made, those that were there stay.
        summary, made, notes = summarise(study), tables.every(study), tables.notes(study)
        contract.write_file(run / "summary.csv", summary.to_csv(index=False, float_format="%.6g"))
        (run / "tables").mkdir(exist_ok=True)
        for old in (run / "tables").glob("*.md"):
            old.unlink()
        print(f"\n{study.plan['experiment']}, {study.plan['profile']} profile, run {run.name}")
        for name, table in made:
            contract.write_file(run / "tables" / f"{name}.md", f"{table}\n{notes}\n")
            print(f"\n{table}", end="")
        print(f"\n{notes}")
        finished(study)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"summarise: {error}")
