#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Draws a run's figures, from summary.csv and, of ab, the requests of the first round.

  figures/throughput.png, .svg   requests per second by setup, with 95 % intervals
  figures/latency.png, .svg      p50, p90 and p99 by setup, with 95 % intervals
  figures/ab-latency-C.png, .svg latency over requests at concurrency C (gnuplot)
"""
import argparse
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend has to be chosen first)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
import contract  # noqa: E402

# Okabe and Ito's colours, for all kinds of colour vision, and hatches for print in grey.
STYLE = {
    "shared": ("#999999", "", "without: shared listener"),
    "fastsocket": ("#D55E00", "//", "with Fastsocket"),
    "exclusive": ("#56B4E9", "..", "EPOLLEXCLUSIVE"),
    "reuseport": ("#009E73", "\\\\", "SO_REUSEPORT"),
    "cbpf": ("#0072B2", "xx", "SO_REUSEPORT + cBPF"),
}


def save(figure, run, name):
    for kind in ("png", "svg"):
        # No date inside: the same data draw the same file.
        figure.savefig(run / "figures" / f"{name}.{kind}", dpi=150, bbox_inches="tight",
                       metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)


def load_label(load):
    tool, concurrency, workers = load
    return f"{tool} -c {concurrency}\n{workers} workers"


def bars(axes, groups, setups, labels):
    """Groups of bars, one bar for each setup; groups: {setup: (median, low, high)}."""
    width = 0.8 / len(setups)
    for i, setup in enumerate(setups):
        colour, hatch, label = STYLE[setup]
        bar = [(place, group[setup]) for place, group in enumerate(groups) if setup in group]
        places = [place + (i - (len(setups) - 1) / 2) * width for place, _ in bar]
        medians = [median for _, (median, _, _) in bar]
        error = [[median - low for _, (median, low, _) in bar],
                 [high - median for _, (median, _, high) in bar]]
        axes.bar(places, medians, width, yerr=error, capsize=3, color=colour, hatch=hatch,
                 edgecolor="black", linewidth=0.6, label=label, error_kw={"linewidth": 1})
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)


def values(summary, load, metric):
    """Of one load: {setup: (median, low, high)}, as far as it was measured."""
    cells = summary.set_index(["tool", "concurrency", "workers"]).sort_index().loc[[load]]
    return {row["setup"]: (row[metric], row[f"{metric}_lo"], row[f"{metric}_hi"])
            for _, row in cells.iterrows() if not pd.isna(row[metric])}


def heading(plan):
    return f"{plan['experiment']}, {plan['profile']} profile"


def throughput(run, plan, summary, loads, setups):
    figure, axes = plt.subplots(figsize=(2.2 + 2.6 * len(loads), 4.5))
    bars(axes, [values(summary, load, "throughput_rps") for load in loads], setups,
         [load_label(load) for load in loads])
    axes.set_ylabel("throughput (requests/s)")
    axes.set_title(f"{heading(plan)}: throughput, median and 95 % interval", wrap=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save(figure, run, "throughput")


def latency(run, plan, summary, loads, setups):
    """A panel for each load, with a scale of its own."""
    percentiles = [50, 90, 99]
    figure, panels = plt.subplots(1, len(loads), figsize=(2 + 4 * len(loads), 4.5), squeeze=False)
    for axes, load in zip(panels[0], loads):
        bars(axes, [values(summary, load, f"latency_p{percent}_ms") for percent in percentiles],
             setups, [f"p{percent}" for percent in percentiles])
        axes.set_title(load_label(load).replace("\n", ", "))
        axes.set_ylabel("latency (ms)")
    figure.suptitle(f"{heading(plan)}: latency, median of repetitions and 95 % interval",
                    wrap=True)
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    save(figure, run, "latency")


def requests_of_median_round(run, cell):
    """ab's -g data of the valid repetition of median throughput, or None."""
    timed = []
    for sample in contract.read_samples(run):
        path = run / "raw" / cell / sample["repetition"] / "requests.tsv.xz"
        if (sample["cell"] == cell and sample["valid"] == "1" and path.exists()
                and not sample["repetition"].startswith("p")):
            timed.append((float(sample["throughput_rps"]), path))
    if not timed:
        return None
    return lzma.decompress(sorted(timed)[len(timed) // 2][1].read_bytes())


def ab_latency(run, plan, summary):
    with tempfile.TemporaryDirectory() as tmp:
        for (concurrency, workers), cells in summary[summary["tool"] == "ab"].groupby(
                ["concurrency", "workers"]):
            files, names = [], []
            for _, cell in cells.iterrows():
                data = requests_of_median_round(run, cell["cell"])
                if data:
                    path = Path(tmp) / f"{cell['cell']}.tsv"
                    path.write_bytes(data)
                    files.append(str(path))
                    names.append(cell["setup"])
            if files:
                title = (f"{heading(plan)}: ab -c {concurrency}, {workers} workers, "
                         "the repetition of median throughput")
                subprocess.run(
                    ["gnuplot", "-e",
                     f"out='{run}/figures/ab-latency-{concurrency}'; files='{' '.join(files)}'; "
                     f"names='{' '.join(names)}'; heading='{title}'",
                     Path(__file__).parent / "ab-latency.gp"], check=True)


def main():
    parser = argparse.ArgumentParser(description="Draw the figures of runs.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    # Text stays text, and ids do not change from one drawing to the next.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastsocket-bench"})
    for run in parser.parse_args().run:
        if not (run / "summary.csv").exists():
            print(f"{run.name}: no summary.csv: run experiments/summarise.py first")
            continue
        plan = contract.read_run(run)["plan"]
        summary = pd.read_csv(run / "summary.csv")
        setups = [setup for setup in plan["setups"] if setup in set(summary["setup"])]
        loads = list(dict.fromkeys(summary[["tool", "concurrency", "workers"]]
                                   .itertuples(index=False, name=None)))
        (run / "figures").mkdir(exist_ok=True)
        throughput(run, plan, summary, loads, setups)
        latency(run, plan, summary, loads, setups)
        ab_latency(run, plan, summary)
        print(f"drawn: {len(list((run / 'figures').glob('*.png')))} figures in "
              f"results/{plan['experiment']}/{run.name}/figures")


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"plot: {error}")
