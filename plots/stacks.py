# SPDX-License-Identifier: GPL-2.0-only
"""figures/counts: line transfers per connection by subsystem; figures/counts-workers: over
the number of workers."""
import boots
import counted as tables
from look import AGAIN, curve, heading, load_label, plt, save

# The groups of counting/groups.c have colours that no setup has (look.py), for all kinds of
# colour vision: Tol's medium contrast.
COLOURS = {"memory": "#6699CC", "bind bucket and TIME_WAIT": "#EECC66", "listener": "#994455",
           "epoll": "#EE99AA", "routes": "#BBCC33", "scheduler": "#004488", "ehash": "#997700",
           "rest": "#E6E6E6", "other": "#E6E6E6"}
UNKNOWN = ["#663333", "#225555", "#BBCCEE", "#AAAA00"]
# The original's figure: thousand connections/s of nginx by cores, 24 real ones, 10 GbE.
ORIGINAL_CORES = (1, 4, 8, 12, 16, 20, 24)
ORIGINAL = {"Fastsocket": ((22, 90, 180, 270, 345, 420, 475), "#D55E00"),
            "Linux 3.13": ((20, 82, 150, 215, 265, 277, 283), "#999999"),
            "CentOS 6.5": ((24, 85, 160, 221, 220, 186, 178), "#555555")}


def groups_of(found):
    """Names of groups, the largest first and the rest last."""
    highest = {}
    for groups in found.values():
        for group, value in groups.items():
            highest[group] = max(highest.get(group, 0), value)
    return sorted(highest, key=lambda group: (group in ("rest", "other"), -highest[group], group))


def colours(groups):
    """Colours by group; a group has the same colour in the figures of all runs."""
    unknown = iter(UNKNOWN)
    return {group: COLOURS.get(group) or next(unknown, "#555555") for group in groups}


def stacks(study):
    found = tables.by_group(study)
    load = tables.shown_load(study)
    cells = [(setup, study.cell_of(load, setup)) for setup in study.plan["factors"]["setup"]
             if study.cell_of(load, setup) in found and setup != AGAIN]
    if not cells:
        return
    groups = groups_of({cell: found[cell] for _, cell in cells})
    chosen = colours(groups)
    figure, axes = plt.subplots(figsize=(11, 1.8 + 0.5 * len(cells)))
    for place, (_, cell) in enumerate(cells):
        left = 0.0
        for group in groups:
            value = found[cell].get(group, 0)
            axes.barh(place, value, 0.7, left=left, color=chosen[group], edgecolor="black",
                      linewidth=0.5, label=group if place == 0 else None)
            left += value
        axes.text(left, place, f"  {left:,.0f}", va="center")
    axes.set_yticks(range(len(cells)), [study.title(setup) for setup, _ in cells])
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.set_xlim(right=1.08 * axes.get_xlim()[1])
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_xlabel(f"cache lines moved between cores, transfers per {study.each()}, mean")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes.set_title(f"{heading(study)}: {load_label(load)}\nline transfers per {study.each()} by "
                   f"subsystem, counted by {tables.source(study, cells[0][1])}")
    figure.tight_layout()
    save(study, figure, "counts", "n_counts", "counting repetitions")


def over_workers(study):
    """Counts per connection where the number of workers varies."""
    if study.cells["workers"].nunique() < 3 or not tables.known(study):
        return
    n = min(study.numbers(cell)["n_counts"] for cell in study.cells["cell"]) or "1 or more"
    figure, panels = plt.subplots(1, 3, figsize=(18, 4.8))
    for axes, (metric, text) in zip(panels, (
            (tables.LINES, f"line transfers per {study.each()}"),
            ("kernel_instructions_per_req", f"kernel instructions per {study.each()}"))):
        for setup, cells in study.cells.groupby("setup", sort=False):
            points = [(cell["workers"], study.median(cell["cell"], metric))
                      for cell in cells.sort_values("workers").to_dict("records")]
            points = [(workers, found[0]) for workers, found in points if found]
            if points and setup != AGAIN:
                axes.errorbar(*zip(*points), label=study.title(setup), **curve(setup))
        axes.set_xlabel("cores, a worker on each" if boots.by_workers(study.plan)
                        else "workers, one core each")
        axes.set_xticks(sorted(set(study.cells["workers"])))
        axes.set_ylabel(f"{text}, median of n = {n}")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(color="#dddddd")
    panels[0].legend(frameon=False, fontsize="small")
    original(panels[2])
    figure.suptitle(f"{heading(study)}: the cost of a connection by the number of workers; "
                    "right, for comparison, the original's measurement of 2014")
    figure.tight_layout()
    save(study, figure, "counts-workers", "n_counts", "counting repetitions")


def original(axes):
    for name, (rates, colour) in ORIGINAL.items():
        axes.plot(ORIGINAL_CORES, rates, color=colour, marker="o", label=name)
    axes.plot((1, 24), (22, 22 * 24), ":", color="#bbbbbb", label="ideal")
    axes.set_xlabel("real cores")
    axes.set_ylabel("nginx, thousand connections/s (2014, published)")
    axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd")
    axes.legend(frameon=False, fontsize="small")


def draw(study):
    stacks(study)
    over_workers(study)
