#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Summarises a run's samples.csv: summary.csv, tables/*.md, and the tables on stdout.

summary.csv has a row for each cell: the factors, n_valid and n_invalid (repetitions), and
for every metric of samples.csv
  METRIC                 the median of the valid repetitions
  METRIC_lo, METRIC_hi   its 95 % bootstrap interval; equal to it for one repetition
  METRIC_ratio           the median of the ratios to the baseline cell in the same round
  METRIC_ratio_lo, _hi   its 95 % bootstrap interval
"""
import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import contract

RESAMPLES = 5000


def bootstrap(values):
    """Median and its 95 % percentile-bootstrap interval."""
    values = np.asarray(values, dtype=float)
    # The same numbers from the same samples, whenever the tables are made again.
    draws = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return np.median(values), low, high


def rounds_within_a_boot(samples, boots):
    """A label for each sample: only samples of one label are compared."""
    first = [boot["first_order"] for boot in boots]
    boot = np.searchsorted(first, samples["order"], side="right")
    return samples["repetition"].astype(str) + "/" + boot.astype(str)


def ratios(own, base, metric):
    """Of the rounds that have both, and a baseline other than 0."""
    pairs = own.set_index("round")[[metric]].join(
        base.set_index("round")[[metric]], rsuffix="_base").dropna()
    pairs = pairs[pairs[f"{metric}_base"] != 0]
    return pairs[metric] / pairs[f"{metric}_base"]


def read_samples(run):
    samples = pd.read_csv(run / "samples.csv", dtype={"repetition": str})
    samples["round"] = rounds_within_a_boot(samples, contract.read_run(run)["boots"])
    return samples


def summarise(run, samples):
    plan = contract.read_run(run)["plan"]
    factors = list(plan["factors"])
    valid = samples[samples["valid"] == 1]
    cells = pd.DataFrame(contract.read_plan(run)).drop_duplicates("cell")
    for factor in factors:
        cells[factor] = cells[factor].astype(samples[factor].dtype)

    rows = []
    for _, cell in cells.iterrows():
        own = valid[valid["cell"] == cell["cell"]]
        sought = {**{factor: cell[factor] for factor in factors}, **plan["baseline"]}
        base = valid[np.logical_and.reduce([valid[name] == value
                                            for name, value in sought.items()])]
        row = {"cell": cell["cell"], **{factor: cell[factor] for factor in factors},
               "n_valid": len(own),
               "n_invalid": int((samples["cell"] == cell["cell"]).sum()) - len(own)}
        for metric in contract.METRICS:
            names = [metric, f"{metric}_lo", f"{metric}_hi"]
            values = own[metric].dropna()
            row.update(zip(names, bootstrap(values) if len(values) else [None] * 3))
            names = [f"{metric}_ratio", f"{metric}_ratio_lo", f"{metric}_ratio_hi"]
            values = ratios(own, base, metric)
            row.update(zip(names, bootstrap(values) if len(values) else [None] * 3))
        rows.append(row)
    # As the experiment lists the levels, not as the shuffle left them.
    order = {factor: {str(level): i for i, level in enumerate(levels)}
             for factor, levels in plan["factors"].items()}
    rows.sort(key=lambda row: [order[factor][str(row[factor])]
                               for factor in [*factors[1:], factors[0]]])
    return pd.DataFrame(rows)


def number(value, digits):
    return f"{value:,.{digits}f}"


def interval(row, metric, digits):
    if pd.isna(row[metric]):
        return "–"
    return with_interval(row[metric], row[f"{metric}_lo"], row[f"{metric}_hi"], digits)


def with_interval(value, low, high, digits):
    """One repetition has no interval."""
    text = number(value, digits)
    return text if low == high else f"{text} [{number(low, digits)}–{number(high, digits)}]"


def ratio(row, metric):
    if pd.isna(row[f"{metric}_ratio"]):
        return "–"
    return with_interval(row[f"{metric}_ratio"], row[f"{metric}_ratio_lo"],
                         row[f"{metric}_ratio_hi"], 2)


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def load_name(row):
    return f"{row['tool']} -c {row['concurrency']}, {row['workers']} workers"


def loads(summary):
    return summary.groupby(["tool", "concurrency", "workers"], sort=False)


def with_without(plan, summary):
    """The seed's table: a row for the time, a column without, a column with."""
    rows = []
    for _, cells in loads(summary[summary["tool"] == "ab"]):
        cells = cells.set_index("setup")
        if not {"shared", "fastsocket"} <= set(cells.index):
            continue
        without, with_ = cells.loc["shared"], cells.loc["fastsocket"]
        gain = with_["throughput_rps_ratio"]
        rows.append([
            f"time for {number(plan['requests'], 0)} requests, ab -c {without['concurrency']}, "
            f"{without['workers']} workers",
            f"{interval(without, 'time_s', 3)} s", f"{interval(with_, 'time_s', 3)} s",
            "–" if pd.isna(gain) else ratio(with_, "throughput_rps")])
    if not rows:
        return None
    seed = plan["reference"].get("time_s")
    if seed:
        rows.append([f"for reference, {plan['reference']['text']}",
                     f"{seed['shared']} s", f"{seed['fastsocket']} s",
                     f"{seed['shared'] / seed['fastsocket']:.2f}"])
    return markdown(["", "without Fastsocket", "with Fastsocket", "times as fast"], rows)


def alternatives(plan, summary, samples):
    """Every setup next to the others, and Fastsocket against each."""
    valid = samples[samples["valid"] == 1].set_index("cell")
    rows = []
    for _, cells in loads(summary):
        ours = cells[cells["setup"] == "fastsocket"]["cell"]
        for _, row in cells.iterrows():
            local = row["local_accept_pct"]
            gains = []
            if len(ours) and {ours.iloc[0], row["cell"]} <= set(valid.index):
                gains = ratios(valid.loc[[ours.iloc[0]]], valid.loc[[row["cell"]]],
                               "throughput_rps")
            rows.append([
                load_name(row), row["setup"], interval(row, "throughput_rps", 0),
                ratio(row, "throughput_rps"),
                with_interval(*bootstrap(gains), 2) if len(gains) else "–",
                interval(row, "latency_p50_ms", 1),
                interval(row, "latency_p99_ms", 1),
                "–" if pd.isna(row["retransmits"]) else number(row["retransmits"], 0),
                "–" if pd.isna(local) else number(local, 2),
                str(row["n_valid"]), str(row["n_invalid"])])
    base = ", ".join(plan["baseline"].values())
    return markdown(["load", "setup", "requests/s", f"ratio to {base}",
                     "Fastsocket's ratio to it", "p50, ms", "p99, ms", "retransmissions",
                     "local accepts, %", "valid", "invalid"], rows)


def spinning(summary):
    """Where spin_pct was measured."""
    rows = [[load_name(row), row["setup"], number(row["spin_pct"], 2)]
            for _, row in summary.iterrows() if not pd.isna(row["spin_pct"])]
    return markdown(["load", "setup", "share of busy samples in spin-lock slow paths, %"],
                    rows) if rows else None


def main():
    parser = argparse.ArgumentParser(
        description="Summarise runs: summary.csv and tables/*.md from samples.csv.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    for run in parser.parse_args().run:
        if not contract.read_samples(run):
            print(f"{run.name}: no repetition has finished yet: nothing to summarise")
            continue
        plan = contract.read_run(run)["plan"]
        samples = read_samples(run)
        summary = summarise(run, samples)
        contract.write_file(run / "summary.csv", summary.to_csv(index=False, float_format="%.6g"))
        (run / "tables").mkdir(exist_ok=True)
        print(f"\n{plan['experiment']}, {plan['profile']} profile, run {run.name}; medians "
              "with 95 % intervals, ratios within rounds")
        for name, table in (("with-without", with_without(plan, summary)),
                            ("alternatives", alternatives(plan, summary, samples)),
                            ("spinning", spinning(summary))):
            if table:
                contract.write_file(run / "tables" / f"{name}.md", table)
                print(f"\n{table}", end="")
        left = len(contract.unfinished(run))
        if left:
            print(f"\n{left} repetitions are missing: the run is not complete")
        else:
            link = run.parent.parent / "latest"
            link.unlink(missing_ok=True)
            link.symlink_to(Path(plan["experiment"], run.name))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"summarise: {error}")
