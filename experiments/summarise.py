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
import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd

import contract

RESAMPLES = 5000
# Fewer cannot tell a difference at 95 %.
ROUNDS_FOR_A_VERDICT = 6


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


def setup_of(plan, name):
    return plan["setups"][name]


def title(plan, name):
    """What a setup is called in tables."""
    return setup_of(plan, name).get("text", name)


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
        sought["setup"] = setup_of(plan, cell["setup"]).get("baseline", sought["setup"])
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
        rows.append([
            f"time for {number(plan['requests'], 0)} requests, ab -c {without['concurrency']}, "
            f"{without['workers']} workers",
            *(interval(row, "time_s", 3) + " s" * (not pd.isna(row["time_s"]))
              for row in (without, with_)),
            ratio(with_, "throughput_rps")])
    if not rows:
        return None
    # The seed measured nginx and the demo, once each.
    seed = plan["reference"].get("time_s")
    if seed:
        rows.append([f"for reference, {plan['reference']['text']}",
                     f"{seed['shared']} s", f"{seed['fastsocket']} s",
                     f"{seed['shared'] / seed['fastsocket']:.2f}"])
    return markdown(["", "without Fastsocket", "with Fastsocket", "times as fast"], rows)


def alternatives(plan, summary, samples):
    """Every setup next to the others, and Fastsocket against each."""
    if "fastsocket" not in set(summary["setup"]):
        return None
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


def setups(plan, summary, samples):
    """Every setup with all that was measured of it."""
    valid = samples[samples["valid"] == 1].set_index("cell")
    rows = []
    for _, cells in loads(summary):
        names = cells.set_index("setup")["cell"]
        for _, row in cells.iterrows():
            setup = setup_of(plan, row["setup"])
            base = setup.get("baseline", plan["baseline"]["setup"])
            others = []
            for other in setup.get("against", []):
                if {row["cell"], names.get(other)} <= set(valid.index):
                    gains = ratios(valid.loc[[row["cell"]]], valid.loc[[names[other]]],
                                   "throughput_rps")
                    if len(gains):
                        others.append(f"{with_interval(*bootstrap(gains), 2)} of {other}")
            rows.append([
                load_name(row), row["setup"], title(plan, row["setup"]),
                interval(row, "throughput_rps", 0),
                "–" if base == row["setup"] or ratio(row, "throughput_rps") == "–"
                else f"{ratio(row, 'throughput_rps')} of {base}",
                "; ".join(others) or "–",
                interval(row, "latency_p50_ms", 1), interval(row, "latency_p99_ms", 1),
                interval(row, "server_busy_pct", 0), interval(row, "context_switches_per_req", 2),
                interval(row, "syscalls_per_req", 2), interval(row, "lock_contended_per_kreq", 1),
                interval(row, "lock_wait_us_per_req", 1), interval(row, "spin_pct", 2),
                interval(row, "local_accept_pct", 2), interval(row, "retransmits", 0),
                f"{row['n_valid']} ({row['n_invalid']})"])
    header = ["load", "setup", "what it is", "requests/s", "ratio", "further ratios", "p50, ms",
              "p99, ms", "busy, %", "context switches per request", "system calls per request",
              "contended locks per 1,000 requests", "waited for locks per request, us",
              "spinning, % of busy", "local accepts, %", "retransmissions", "valid (invalid)"]
    # What was measured of no setup is left out.
    kept = [i for i in range(len(header)) if any(row[i] != "–" for row in rows)]
    return markdown([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def verdict(low, high, rounds):
    """The range of n values misses the true median with a probability of 2 / 2**n."""
    if rounds < ROUNDS_FOR_A_VERDICT:
        return "too few rounds to tell"
    if low > 1:
        return "pays"
    return "costs" if high < 1 else "no difference measured"


def ideas(plan, summary):
    """The ideas of 2014, their in-tree successors, and the effect of each on this kernel."""
    rows = []
    for _, cells in loads(summary):
        cells = cells.set_index("setup")
        for name, row in cells.iterrows():
            setup = setup_of(plan, name)
            if "successor" not in setup or pd.isna(row["throughput_rps_ratio"]):
                continue
            lacking = [cells.loc[other] for other in cells.index
                       if setup_of(plan, other).get("idea") == setup["idea"]
                       and "successor" not in setup_of(plan, other)]
            base = title(plan, setup.get("baseline", plan["baseline"]["setup"]))
            rows.append([
                setup["idea"], setup["successor"],
                f"{ratio(row, 'throughput_rps')} of {base}",
                verdict(row["throughput_rps_ratio_lo"], row["throughput_rps_ratio_hi"],
                        # Repetitions under perf are valid too, and not timed.
                        min(row["n_valid"], plan["rounds"])),
                ratio(row, "server_busy_pct"), ratio(row, "context_switches_per_req"),
                ratio(lacking[0], "throughput_rps") if lacking else "–"])
    return markdown(["idea of 2014", "its in-tree successor", "requests/s", "verdict",
                     "busy time", "context switches per request",
                     "requests/s when it is left out of everything"], rows) if rows else None


def speed_up(plan, summary, samples):
    """Throughput by number of workers, and its ratio to one worker in the same rounds."""
    counts = sorted(set(summary["workers"]))
    if len(counts) == 1:
        return None
    valid = samples[samples["valid"] == 1]
    rows = []
    for (setup, tool, concurrency), cells in summary.groupby(
            ["setup", "tool", "concurrency"], sort=False):
        cells = cells.set_index("workers")
        texts = []
        for count in counts:
            if count not in cells.index:
                texts.append("–")
                continue
            own, base = (valid[valid["cell"] == cells.loc[number]["cell"]]
                         for number in (count, cells.index.min()))
            gains = ratios(own, base, "throughput_rps")
            texts.append(interval(cells.loc[count], "throughput_rps", 0) + (
                f", ×{with_interval(*bootstrap(gains), 2)}" if len(gains) else ""))
        rows.append([f"{tool} -c {concurrency}", title(plan, setup), *texts])
    return markdown(["load", "setup", *(f"{count} worker{'s' * (count > 1)}: requests/s, "
                                        "speed-up" for count in counts)], rows)


def by_place(run, plan, samples, name, places):
    """Sums of raw/CELL/REPETITION/NAME over valid repetitions: {cell: (repetitions, requests,
    {place: sums})}, cells as the experiment lists them.

    places: how many of the file's columns say the place; the others are summed.
    """
    found = {}
    order = {setup: i for i, setup in enumerate(plan["factors"]["setup"])}
    valid = samples[samples["valid"] == 1]
    for _, sample in valid.sort_values(["setup", "cell", "order"], key=lambda column: column.map(
            order) if column.name == "setup" else column).iterrows():
        path = run / "raw" / sample["cell"] / sample["repetition"] / name
        if not path.exists():
            continue
        repetitions, requests, sums = found.get(sample["cell"], (0, 0, {}))
        with open(path, newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                own = sums.setdefault(tuple(row[:places]), [0] * len(row[places:]))
                own[:] = [value + float(more) for value, more in zip(own, row[places:])]
        found[sample["cell"]] = repetitions + 1, requests + sample["requests"], sums
    return found


def most(sums):
    """The ten places with most, and what the others have together."""
    places = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    return places[:10], [sum(column) for column in zip(*(values for _, values in places[10:]))]


def locks(run, plan, samples):
    """Contended locks by the function that took them and its caller."""
    rows = []
    for cell, (_, requests, sums) in by_place(run, plan, samples, "locks.csv", 3).items():
        places, rest = most(sums)
        for (kind, function, caller), values in places:
            rows.append([cell, kind, f"`{function}`", f"`{caller}`",
                         *(number(1000 * value / requests, 2) for value in values)])
        if rest:
            rows.append([cell, f"{len(sums) - len(places)} more places", "", "",
                         *(number(1000 * value / requests, 2) for value in rest)])
    return markdown(["cell", "kind", "lock taken in", "called by", "contended per 1,000 requests",
                     "waited per 1,000 requests, us"], rows) if rows else None


def spinning_places(run, plan, samples):
    """Spinning by the function that took the lock and its caller."""
    rows = []
    for cell, (repetitions, _, sums) in by_place(run, plan, samples, "spinning.csv", 2).items():
        places, rest = most(sums)
        for (function, caller), (share,) in places:
            rows.append([cell, f"`{function}`", f"`{caller}`", number(share / repetitions, 2)])
        if rest:
            rows.append([cell, f"{len(sums) - len(places)} more places", "",
                         number(rest[0] / repetitions, 2)])
    return markdown(["cell", "lock taken in", "called by", "share of busy samples, %"],
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
                            ("setups", setups(plan, summary, samples)),
                            ("ideas", ideas(plan, summary)),
                            ("workers", speed_up(plan, summary, samples)),
                            ("spinning", spinning(summary)),
                            ("spinning-places", spinning_places(run, plan, samples)),
                            ("locks", locks(run, plan, samples))):
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
