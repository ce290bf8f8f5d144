#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Draws a run's figures, from summary.csv and, of ab, the requests of the first round.

  figures/throughput.png, .svg   requests per second by setup, with 95 % intervals
  figures/latency.png, .svg      p50, p90 and p99 by setup, with 95 % intervals
  figures/workers.png, .svg      the same over the number of workers, or of connections,
  figures/concurrency.png, .svg  where the experiment has more than two of them
  figures/ab-latency-C.png, .svg latency over requests at concurrency C (gnuplot); with
                                 several numbers of workers W ab-latency-C-W. Not of more
                                 setups than can be told apart
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
# Others take these in turn; the numbers of colours and of hatches have no common factor.
COLOURS = ["#999999", "#D55E00", "#56B4E9", "#009E73", "#0072B2", "#E69F00", "#CC79A7"]
HATCHES = ["", "//", "..", "\\\\", "xx", "--", "oo", "++"]
MARKERS = "osD^vPX*"
DASHES = ["-", "--", "-.", ":"]
# Up to as many are told apart by colours and a legend; more get a line of their own each.
FEW = 6


def styles(plan, setups):
    """By setup: colour, hatch, label."""
    chosen = {}
    for i, setup in enumerate(setups):
        text = plan["setups"][setup].get("text", setup)
        chosen[setup] = STYLE.get(setup, (COLOURS[i % len(COLOURS)], HATCHES[i % len(HATCHES)],
                                          text))
    return chosen


def kind(plan, setup):
    """Colour and hatch where setups are many: without library, compared with, Fastsocket."""
    facts = plan["setups"][setup]
    if facts.get("preload"):
        return "#D55E00", "//"
    if facts.get("baseline", plan["baseline"]["setup"]) == setup:
        return "#999999", ""
    return "#0072B2", ".."


def save(figure, run, name):
    for kind in ("png", "svg"):
        # No date inside: the same data draw the same file.
        figure.savefig(run / "figures" / f"{name}.{kind}", dpi=150, bbox_inches="tight",
                       metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)


def load_label(load):
    tool, concurrency, workers = load
    return f"{tool} -c {concurrency}\n{workers} workers"


def bars(axes, groups, setups, labels, style):
    """Groups of bars, one bar for each setup; groups: {setup: (median, low, high)}."""
    width = 0.8 / len(setups)
    for i, setup in enumerate(setups):
        colour, hatch, label = style[setup]
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


def names(axes, plan, setups):
    """A line for each setup, the first one on top."""
    axes.set_yticks(range(len(setups)),
                    [plan["setups"][setup].get("text", setup) for setup in setups])
    axes.set_ylim(len(setups) - 0.5, -0.5)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)


def wide(plan, loads, setups):
    """A figure with a panel for each load and a line in it for each setup."""
    figure, panels = plt.subplots(
        1, len(loads), figsize=(3 + 4.5 * len(loads), 1.5 + 0.32 * len(setups)), squeeze=False,
        sharey=True)
    for axes, load in zip(panels[0], loads):
        names(axes, plan, setups)
        axes.set_title(load_label(load).replace("\n", ", "))
    return figure, panels[0]


def throughput_of_many(run, plan, summary, loads, setups):
    figure, panels = wide(plan, loads, setups)
    for axes, load in zip(panels, loads):
        measured = values(summary, load, "throughput_rps")
        for place, setup in enumerate(setups):
            if setup not in measured:
                continue
            median, low, high = measured[setup]
            colour, hatch = kind(plan, setup)
            axes.barh(place, median, 0.7, xerr=[[median - low], [high - median]], capsize=3,
                      color=colour, hatch=hatch, edgecolor="black", linewidth=0.6,
                      error_kw={"linewidth": 1})
            axes.text(high, place, f"  {median:,.0f}", va="center", fontsize="small")
        axes.set_xlim(0, 1.15 * max((high for _, _, high in measured.values()), default=1))
        axes.set_xlabel("throughput (requests/s)")
    figure.suptitle(f"{heading(plan)}: throughput, median and 95 % interval", wrap=True)
    figure.tight_layout()
    save(figure, run, "throughput")


def latency_of_many(run, plan, summary, loads, setups):
    figure, panels = wide(plan, loads, setups)
    for axes, load in zip(panels, loads):
        for percent, marker, colour in ((50, "o", "#0072B2"), (90, "s", "#E69F00"),
                                        (99, "^", "#D55E00")):
            measured = values(summary, load, f"latency_p{percent}_ms")
            places = [place for place, setup in enumerate(setups) if setup in measured]
            if not places:
                continue
            medians, lows, highs = zip(*(measured[setups[place]] for place in places))
            axes.errorbar(medians, places,
                          xerr=[[median - low for median, low in zip(medians, lows)],
                                [high - median for median, high in zip(medians, highs)]],
                          fmt=marker, color=colour, markeredgecolor="black", capsize=3,
                          linewidth=1, label=f"p{percent}")
        axes.set_xlim(left=0)
        axes.set_xlabel("latency (ms)")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(f"{heading(plan)}: latency, median of repetitions and 95 % interval",
                    wrap=True)
    figure.tight_layout()
    save(figure, run, "latency")


def curves(run, plan, summary, setups, factor):
    """Throughput and latency over a factor that is a number."""
    figure, panels = plt.subplots(1, 2, figsize=(13, 4.8))
    for axes, metric, label in ((panels[0], "throughput_rps", "throughput (requests/s)"),
                                (panels[1], "latency_p99_ms", "p99 latency (ms)")):
        for i, setup in enumerate(setups):
            cells = summary[(summary["setup"] == setup) & summary[metric].notna()]
            cells = cells.sort_values(factor)
            axes.errorbar(cells[factor], cells[metric],
                          yerr=[cells[metric] - cells[f"{metric}_lo"],
                                cells[f"{metric}_hi"] - cells[metric]],
                          color=["black", *COLOURS[1:]][i % len(COLOURS)],
                          linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)],
                          capsize=3, linewidth=1.5,
                          label=plan["setups"][setup].get("text", setup))
        levels = sorted(set(summary[factor]))
        if levels[-1] > 50 * levels[0]:
            axes.set_xscale("log")
            axes.set_yscale("log" if metric.startswith("latency") else "linear")
        axes.set_xticks(levels, [f"{level:,}" for level in levels])
        axes.minorticks_off()
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
        axes.set_xlabel({"workers": "workers, one core each",
                         "concurrency": "connections at a time"}[factor])
        axes.set_ylabel(label)
        axes.grid(color="#dddddd")
    panels[1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(f"{heading(plan)}: median of repetitions and 95 % interval", wrap=True)
    figure.tight_layout()
    save(figure, run, factor)


def throughput(run, plan, summary, loads, setups):
    if len(setups) > FEW:
        throughput_of_many(run, plan, summary, loads, setups)
        return
    figure, axes = plt.subplots(figsize=(2.2 + 2.6 * len(loads), 4.5))
    bars(axes, [values(summary, load, "throughput_rps") for load in loads], setups,
         [load_label(load) for load in loads], styles(plan, setups))
    axes.set_ylabel("throughput (requests/s)")
    axes.set_title(f"{heading(plan)}: throughput, median and 95 % interval", wrap=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    save(figure, run, "throughput")


def latency(run, plan, summary, loads, setups):
    """A panel for each load, with a scale of its own."""
    if len(setups) > FEW:
        latency_of_many(run, plan, summary, loads, setups)
        return
    # redis-benchmark has no 90th.
    percentiles = [percent for percent in (50, 90, 99)
                   if summary[f"latency_p{percent}_ms"].notna().any()]
    figure, panels = plt.subplots(1, len(loads), figsize=(2 + 4 * len(loads), 4.5), squeeze=False)
    for axes, load in zip(panels[0], loads):
        bars(axes, [values(summary, load, f"latency_p{percent}_ms") for percent in percentiles],
             setups, [f"p{percent}" for percent in percentiles], styles(plan, setups))
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
                and sample["repetition"].isdigit()):
            timed.append((float(sample["throughput_rps"]), path))
    if not timed:
        return None
    return lzma.decompress(sorted(timed)[len(timed) // 2][1].read_bytes())


def ab_latency(run, plan, summary):
    if summary["setup"].nunique() > len(COLOURS):
        return
    workers_vary = summary["workers"].nunique() > 1
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
                figure = f"ab-latency-{concurrency}" + f"-{workers}" * workers_vary
                title = (f"{heading(plan)}: ab -c {concurrency}, {workers} workers, "
                         "the repetition of median throughput")
                subprocess.run(
                    ["gnuplot", "-e",
                     f"out='{run}/figures/{figure}'; files='{' '.join(files)}'; "
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
        setups = [setup for setup in plan["factors"]["setup"]
                  if setup in set(summary["setup"])]
        loads = list(dict.fromkeys(summary[["tool", "concurrency", "workers"]]
                                   .itertuples(index=False, name=None)))
        (run / "figures").mkdir(exist_ok=True)
        throughput(run, plan, summary, loads, setups)
        latency(run, plan, summary, loads, setups)
        for factor in ("workers", "concurrency"):
            if summary[factor].nunique() > 2:
                curves(run, plan, summary, setups, factor)
        ab_latency(run, plan, summary)
        print(f"drawn: {len(list((run / 'figures').glob('*.png')))} figures in "
              f"results/{plan['experiment']}/{run.name}/figures")


if __name__ == "__main__":
    try:
        main()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"plot: {error}")
