# SPDX-License-Identifier: GPL-2.0-only
"""figures/throughput and latency by setup, and over workers or connections where they vary."""
import math

from look import AGAIN, curve, heading, legend, load_label, plt, save, style
from tools import TOOLS

# Up to this number, setups have colours and a legend; more setups get a line each.
FEW = 6


def errors(one):
    """(error below, error above) of (median, low, high)."""
    median, low, high = one
    return (math.nan, math.nan) if low is None else (median - low, high - median)


def error_bars(below, above):
    """The argument of matplotlib for errors(), which warns of errors that are all no numbers."""
    return None if all(map(math.isnan, below)) else [below, above]


def values(study, load, metric):
    """{setup: (median, error below, error above)} of one load, for setups that were measured.

    Without an interval the errors are no numbers: 0 would be drawn as an interval without width.
    """
    found = {}
    for setup in study.plan["factors"]["setup"]:
        cell = study.cell_of(load, setup)
        one = study.median(cell, metric) if cell else None
        if one:
            found[setup] = (one[0], *errors(one))
    return found


def loads_of(study):
    return [load for load, _ in study.loads()]


def bars(axes, groups, setups, labels, study):
    """Groups of bars, one bar for each setup; groups: [values()]."""
    width = 0.8 / len(setups)
    for i, setup in enumerate(setups):
        colour, hatch = style(setup)
        bar = [(place, group[setup]) for place, group in enumerate(groups) if setup in group]
        if not bar:
            continue
        places = [place + (i - (len(setups) - 1) / 2) * width for place, _ in bar]
        medians, below, above = zip(*(one for _, one in bar))
        axes.bar(places, medians, width, yerr=error_bars(below, above), capsize=3,
                 color=colour, hatch=hatch, edgecolor="black", linewidth=0.6,
                 label=study.title(setup), error_kw={"linewidth": 1})
    axes.set_xticks(range(len(groups)), labels)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)


def rows_of_setups(study, setups, loads):
    """A figure with a panel for each load and a line in it for each setup."""
    figure, panels = plt.subplots(
        1, len(loads), figsize=(3 + 4.5 * len(loads), 1.5 + 0.32 * len(setups)), squeeze=False,
        sharey=True)
    for axes, load in zip(panels[0], loads):
        axes.set_yticks(range(len(setups)), [study.title(setup) for setup in setups])
        axes.set_ylim(len(setups) - 0.5, -0.5)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.set_title(load_label(load))
    return figure, panels[0]


def throughput_of_many(study, setups, loads):
    figure, panels = rows_of_setups(study, setups, loads)
    for axes, load in zip(panels, loads):
        measured = values(study, load, "throughput_rps")
        ends = {setup: median + (0 if math.isnan(above) else above)
                for setup, (median, _, above) in measured.items()}
        for setup, (median, below, above) in measured.items():
            place, (colour, hatch) = setups.index(setup), style(setup)
            axes.barh(place, median, 0.7, xerr=error_bars([below], [above]), capsize=3,
                      color=colour, hatch=hatch, edgecolor="black", linewidth=0.6,
                      error_kw={"linewidth": 1})
            axes.text(ends[setup], place, f"  {median:,.0f}", va="center", fontsize="small")
        axes.set_xlim(0, 1.15 * max(ends.values(), default=1))
        axes.set_xlabel("throughput (requests/s)")
    return figure


def throughput(study, setups, loads):
    if len(setups) > FEW:
        figure = throughput_of_many(study, setups, loads)
    else:
        figure, axes = plt.subplots(figsize=(3 + 2.2 * len(loads), 4.5))
        bars(axes, [values(study, load, "throughput_rps") for load in loads], setups,
             [load_label(load).replace(", ", "\n") for load in loads], study)
        axes.set_ylabel("throughput (requests/s)")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(f"{heading(study)}: throughput, median, and 95 % interval from n = 6")
    figure.tight_layout()
    save(study, figure, "throughput")


def latency_of_many(study, setups, loads):
    """The marker tells the percentile, and the colour the setup, as in all figures."""
    figure, panels = rows_of_setups(study, setups, loads)
    for axes, load in zip(panels, loads):
        for percent, marker in ((50, "o"), (90, "s"), (99, "^")):
            measured = values(study, load, f"latency_p{percent}_ms")
            for setup, (median, below, above) in measured.items():
                axes.errorbar(median, setups.index(setup), xerr=error_bars([below], [above]),
                              fmt=marker, color=style(setup)[0], markeredgecolor="black",
                              capsize=3, linewidth=1)
            axes.plot([], [], linestyle="", marker=marker, color="white", markeredgecolor="black",
                      label=f"p{percent}")
        axes.set_xlim(left=0)
        axes.set_xlabel("latency (ms)")
    return figure, panels


def latency(study, setups, loads):
    """A panel for each load, with a scale of its own."""
    if len(setups) > FEW:
        figure, panels = latency_of_many(study, setups, loads)
    else:
        # redis-benchmark has no 90th percentile.
        percentiles = [percent for percent in (50, 90, 99)
                       if study.rows[f"latency_p{percent}_ms"].notna().any()]
        figure, panels = plt.subplots(1, len(loads), figsize=(2 + 4 * len(loads), 4.5),
                                      squeeze=False)
        panels = panels[0]
        for axes, load in zip(panels, loads):
            bars(axes, [values(study, load, f"latency_p{percent}_ms") for percent in percentiles],
                 setups, [f"p{percent}" for percent in percentiles], study)
            axes.set_title(load_label(load))
            axes.set_ylabel("latency (ms)")
    legend(panels)
    figure.suptitle(f"{heading(study)}: latency, median of repetitions, and 95 % interval from "
                    "n = 6")
    figure.tight_layout()
    save(study, figure, "latency")


def curves(study, factor):
    """Throughput and latency over a factor that is a number."""
    figure, panels = plt.subplots(1, 2, figsize=(13, 4.8))
    for axes, metric, label in ((panels[0], "throughput_rps", "throughput (requests/s)"),
                                (panels[1], "latency_p99_ms", "p99 latency (ms)")):
        for setup, cells in study.cells.groupby("setup", sort=False):
            points = [(cell[factor], study.median(cell["cell"], metric))
                      for cell in cells.sort_values(factor).to_dict("records")]
            points = [(level, *found) for level, found in points if found]
            if not points or setup == AGAIN:
                continue
            levels, medians = zip(*((level, median) for level, median, *_ in points))
            axes.errorbar(levels, medians, label=study.title(setup), **curve(setup),
                          yerr=error_bars(*zip(*(errors(point[1:]) for point in points))))
            doubtful = [(level, median) for level, median in zip(levels, medians)
                        if mostly_degraded(study, cells, factor, level)]
            if doubtful:
                axes.plot(*zip(*doubtful), linestyle="", zorder=3, markerfacecolor="white",
                          color=curve(setup)["color"], marker=curve(setup)["marker"])
        finish(axes, study, factor, metric)
        axes.set_ylabel(label)
    if factor == "workers":
        ideal(panels[0], study)
    legend(panels)
    figure.suptitle(f"{heading(study)}: median of repetitions, and 95 % interval from n = 6; "
                    "hollow: most of them degraded")
    figure.tight_layout()
    save(study, figure, factor)


def mostly_degraded(study, cells, factor, level):
    """Whether most repetitions of the cell at this level are degraded."""
    numbers = study.numbers(cells[cells[factor] == level]["cell"].iloc[0])
    return 2 * numbers["n_degraded"] > numbers["n_valid"]


def ideal(axes, study):
    """The baseline's rate with the fewest workers, times their number. Where the line leaves the
    panel, which is as high as the data need, a text says where it would end."""
    cells = study.cells[study.cells["setup"] == study.plan["baseline"]["setup"]]
    cells = cells.sort_values("workers").to_dict("records")
    first = study.median(cells[0]["cell"], "throughput_rps") if cells else None
    if first:
        workers = [cell["workers"] for cell in cells]
        each, top = first[0] / workers[0], axes.get_ylim()[1]
        name = study.title(study.plan["baseline"]["setup"])
        axes.plot(workers, [each * number for number in workers], color="black", linewidth=0.8,
                  label=f"ideal: as many times the first rate\nof \"{name}\" as workers")
        top = max(top, 1.5 * each * workers[1])
        axes.set_ylim(0, top)
        if each * workers[-1] > top:
            axes.annotate(f"ideal: {each * workers[-1]:,.0f} with {workers[-1]} workers",
                          (top / each, top), xytext=(0, 3), textcoords="offset points",
                          ha="center", va="bottom", fontsize="small")


def finish(axes, study, factor, metric):
    levels = sorted(set(study.cells[factor]))
    if levels[-1] > 50 * levels[0]:
        axes.set_xscale("log")
        axes.set_yscale("log" if metric.startswith("latency") else "linear")
    axes.set_xticks(levels, [f"{level:,}" for level in levels])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    rate = any(TOOLS[tool].open_loop for tool in set(study.cells["tool"]) & set(TOOLS))
    axes.set_xlabel({"workers": "workers, one core each",
                     "concurrency": "connections opened per second" if rate
                     else "connections at a time"}[factor])
    axes.grid(color="#dddddd")


def draw(study):
    setups, loads = list(study.plan["factors"]["setup"]), loads_of(study)
    if study.rows["throughput_rps"].notna().any():
        throughput(study, setups, loads)
        latency(study, setups, loads)
        for factor in ("workers", "concurrency"):
            if study.cells[factor].nunique() > 2:
                curves(study, factor)
