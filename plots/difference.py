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
from forest import label  # noqa: E402
from look import plt, ratios, shrink, style  # noqa: E402
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
    ratios(axes, True)


def counted(a, b, row):
    """A row of panel() from one of compare.counts(). With an interval, the ratio is that of means,
    which the interval is about."""
    cell, _, _, _, value, one = row
    note = f"n={min(study.numbers(cell)['n_counts'] for study in (a, b))}"
    if one is None or one.low is None:
        return cell, value, None, None, True, note
    return cell, one.value, one.low, one.high, not one.low <= 1 <= one.high, note


def names(a, cells):
    """The cells' setups in words, as in the forest plot of A, with the load where it varies."""
    rows = a.cells.set_index("cell", drop=False).loc[cells].to_dict("records")
    loads = [(row["tool"], row["concurrency"], row["workers"]) for row in rows]
    return [label(a, load, row, len(set(loads))) for load, row in zip(loads, rows)]


def draw(a, b):
    """A figure, or None where the runs have nothing in common."""
    counts = [counted(a, b, row) for row in compare.counts(a, b)
              if row[1].heading == "line transfers"]
    times = [(cell, one.value, one.low, one.high, word in ("above", "below", "same"),
              f"n={one.n}") for cell, _, one, word in compare.judged(compare.times(a, b))]
    panels = [(rows, text) for rows, text in (
        (counts, f"line transfers per {a.each()}, B / A\n(left is less)"),
        (times, "requests/s, ratio to the baseline, B / A\n(right is faster)")) if rows]
    if not panels:
        return None
    cells = list(dict.fromkeys(row[0] for rows, _ in panels for row in rows))
    places = {cell: place for place, cell in enumerate(cells)}
    setups = dict(zip(a.cells["cell"], a.cells["setup"]))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 + 5 * len(panels),
                                                         2 + 0.5 * len(cells)),
                                squeeze=False, sharey=True)
    for one, (rows, text) in zip(axes[0], panels):
        panel(one, rows, places, setups)
        one.set_xlabel(text)
    axes[0][0].set_yticks(range(len(cells)), names(a, cells))
    axes[0][0].set_ylim(len(cells) - 0.5, -0.5)
    heads = [f"{name}: {one.plan['experiment']}/{one.run.name}, {one.host()}"
             for name, one in (("A", a), ("B", b))]
    text = ("filled: a verdict, or a count without 1 in its interval, or without interval; "
            "hollow: others, and rates of baselines; grey: the same within 5 %")
    figure.suptitle("\n".join([*heads, text]), fontsize="small")
    figure.tight_layout()
    return figure


def write(figure, out):
    """out: the picture, without .png or .svg."""
    figure.savefig(out.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    shrink(drawn, out.with_suffix(".png"))
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Draw how run B differs from run A.")
    parser.add_argument("run", type=Path, nargs="+",
                        help="A and B; B alone is compared with the newest other committed run")
    parser.add_argument("--out", type=Path, required=True,
                        help="the picture, without .png or .svg")
    args = parser.parse_args()
    figure = draw(*map(Study, compare.chosen(args.run)))
    if figure is None:
        sys.exit("difference: the runs have no cell in common: give two runs of one experiment")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(figure, args.out)
    print(f"figure: {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"difference: {error}")
