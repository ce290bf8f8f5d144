# SPDX-License-Identifier: GPL-2.0-only
"""figures/forest: every setup's ratio to its baseline, and that of the null cell."""
import intervals
from look import AGAIN, heading, load_label, plt, ratios, save, style

LINES = "line_transfers_per_req"
# Counts come first, since they do not depend on how busy the machine was.
PANELS = ((LINES, "line transfers per {each},\nratio to the baseline (left is less)"),
          ("throughput_rps", "requests/s, ratio to the baseline\n(right is faster)"))


def compared(study, metric):
    """[(load, cell as a dictionary, Ratio)] of all cells that are no baselines."""
    if metric not in study.rows or not study.rows[metric].notna().any():
        return []
    found = []
    for load, cells in study.loads():
        for cell in cells.to_dict("records"):
            base = study.baseline(cell)
            one = study.ratio(cell["cell"], base, metric) if base != cell["cell"] else None
            if one:
                found.append((load, cell, one))
    return found


def label(study, load, cell, loads):
    title = study.title(cell["setup"])
    base = study.plan["setups"][cell["setup"]].get("baseline")
    title += f" / {study.title(base)}" if base else ""
    return f"{title}\n{load_label(load)}" if loads > 1 else title


def panel(axes, study, metric, rows, places):
    for _, cell, one in rows:
        place = places[cell["cell"]]
        colour, _ = style(cell["setup"])
        told = study.verdicts.get(cell["cell"]) in ("above", "below", "same")
        error = None if one.low is None else [[one.value - one.low], [one.high - one.value]]
        axes.errorbar(one.value, place, xerr=error, fmt="s", color=colour, capsize=3,
                      markeredgecolor="black", markersize=6,
                      markerfacecolor=colour if told or metric == LINES else "white")
        axes.text(1.01, place, f"{one.value:.2f}  n={one.n}", va="center", fontsize="small",
                  transform=axes.get_yaxis_transform())
    ratios(axes, metric != LINES)


def draw(study):
    found = [(metric, text.format(each=study.each()), compared(study, metric))
             for metric, text in PANELS]
    found = [one for one in found if one[2]]
    if not found:
        return
    loads = len({load for _, _, rows in found for load, _, _ in rows})
    cells = list({cell["cell"]: (load, cell) for _, _, rows in found
                  for load, cell, _ in rows}.items())
    # The null cell comes last.
    cells.sort(key=lambda item: item[1][1]["setup"] == AGAIN)
    places = {name: place for place, (name, _) in enumerate(cells)}
    height = (0.52 if loads > 1 else 0.36) * len(cells) + 1.8
    figure, panels = plt.subplots(1, len(found), figsize=(3.5 + 5.2 * len(found), height),
                                  squeeze=False, sharey=True)
    for axes, (metric, text, rows) in zip(panels[0], found):
        panel(axes, study, metric, rows, places)
        axes.set_xlabel(text)
    panels[0][0].set_yticks(range(len(cells)), [label(study, load, cell, loads)
                                                for _, (load, cell) in cells])
    panels[0][0].set_ylim(len(cells) - 0.5, -0.5)
    timed = [one for one in found if one[0] != LINES]
    text = f"{heading(study)}: ratios within rounds, 95 % interval from n = {intervals.SMALLEST}"
    if timed:
        text += (";\nfilled: a count, or a verdict after Holm's correction; hollow: not told "
                 "apart; grey: the same within 5 %")
    figure.suptitle(text, fontsize="medium")
    figure.tight_layout()
    if timed:
        save(study, figure, "forest")
    else:
        save(study, figure, "forest", "n_counts", "counting repetitions")
