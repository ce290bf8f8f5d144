#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Draws how run B differs from run A, as a forest plot: OUT.png and OUT.svg.

Left: counts of B divided by those of A. Right: requests/s, the ratio to the baseline within rounds
in B divided by that in A; for a baseline itself its rate, hollow, since it depends on the machine.
"""
import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))
import compare  # noqa: E402 (its folder has to be named first)
import intervals  # noqa: E402
from look import plt, shrink, style  # noqa: E402
from study import Study  # noqa: E402


def panel(axes, rows, places, setups):
    """rows: [(cell, value, low or None, high or None, filled, note)]"""
    for cell, value, low, high, filled, note in rows:
        colour, _ = style(setups[cell])
        error = None if low is None else [[value - low], [high - value]]
        axes.errorbar(value, places[cell], xerr=error, fmt="s", color=colour, capsize=3,
                      markeredgecolor="black", markerfacecolor=colour if filled else "white")
        axes.text(1.01, places[cell], f"{value:.2f}  {note}", va="center", fontsize="small",
                  transform=axes.get_yaxis_transform())
    axes.axvline(1, color="black", linewidth=1)
    axes.axvspan(1 / intervals.MARGIN, intervals.MARGIN, color="#eeeeee", zorder=0)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)


def draw(a, b):
    """A figure, or None where the runs have nothing in common."""
    counts = [(cell, value, None, None, True,
               f"n={min(study.numbers(cell)['n_counts'] for study in (a, b))}")
              for cell, count, *_, value in compare.counts(a, b)
              if count.heading == "line transfers"]
    times = [(cell, one.value, one.low, one.high, word in ("above", "below", "same"),
              f"n={one.n}") for cell, _, one, word in compare.judged(compare.times(a, b))]
    panels = [(rows, label) for rows, label in (
        (counts, "line transfers per connection, B / A"),
        (times, "requests/s, ratio to the baseline, B / A")) if rows]
    if not panels:
        return None
    cells = list(dict.fromkeys(row[0] for rows, _ in panels for row in rows))
    places = {cell: place for place, cell in enumerate(cells)}
    setups = dict(zip(a.cells["cell"], a.cells["setup"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 + 5 * len(panels),
                                                         1.8 + 0.36 * len(cells)),
                                squeeze=False, sharey=True)
    for one, (rows, label) in zip(axes[0], panels):
        panel(one, rows, places, setups)
        one.set_xlabel(label)
    axes[0][0].set_yticks(range(len(cells)), cells)
    axes[0][0].set_ylim(len(cells) - 0.5, -0.5)
    figure.suptitle(f"A: {a.plan['experiment']}/{a.run.name}, {a.host()}\n"
                    f"B: {b.plan['experiment']}/{b.run.name}, {b.host()}\nfilled: a count, or "
                    "a verdict; hollow: not told apart, or a baseline; grey: the same within 5 %",
                    fontsize="small")
    figure.tight_layout()
    return figure


def main():
    parser = argparse.ArgumentParser(description="Draw how run B differs from run A.")
    parser.add_argument("a", type=Path, help="a run's folder")
    parser.add_argument("b", type=Path, help="the other's")
    parser.add_argument("out", type=Path, help="the picture, without .png or .svg")
    args = parser.parse_args()
    figure = draw(Study(args.a.resolve()), Study(args.b.resolve()))
    if figure is None:
        sys.exit("difference: the runs have no cell in common: give two runs of one experiment")
    figure.savefig(args.out.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    shrink(drawn, args.out.with_suffix(".png"))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"difference: {error}")
