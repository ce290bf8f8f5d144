# SPDX-License-Identifier: GPL-2.0-only
"""Functions that all figures share: a setup's colour, the line about the measurement, files."""
import io
import zlib

import intervals
import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.colors as colours_of  # noqa: E402 (the backend has to be chosen first)
import matplotlib.pyplot as plt  # noqa: E402
from study import AGAIN  # noqa: E402
from tables import load_name  # noqa: E402

# Text stays text, and ids do not change from one drawing to the next.
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fastsocket-bench"})

# Colours by kind of setup, of Okabe and Ito, for all kinds of colour vision; hatches are for grey.
VARIANTS = {
    "": ("#999999", ""), "shared": ("#999999", ""), "one": ("#999999", ""),
    "again": ("#DDDDDD", ""), "other": ("#DDDDDD", ""),
    "fastsocket": ("#D55E00", "//"), "listen": ("#D55E00", "//"),
    "exclusive": ("#56B4E9", ".."), "reuseport": ("#009E73", "\\\\"), "cbpf": ("#0072B2", "xx"),
    "library": ("#B0B070", "--"), "pool": ("#E69F00", "--"), "all": ("#882255", ""),
    "rfd": ("#CC79A7", "||"), "rfs": ("#F0E442", "--"), "rcs": ("#44AA99", ""),
    "direct-tcp": ("#AA4499", ".."), "skb-pool": ("#E69F00", "--"),
    "kernel": ("#661100", "++"), "kernel-late": ("#CC6677", "++"),
}
# Each idea of 2014 (ideas.py) has one colour: darker where ideas are added up,
# lighter where it is left out.
GROUPS = {"only": (0.0, ""), "to": (-0.35, "//"), "not": (0.5, "..")}
IDEAS = {"listen": "#D55E00", "vfs": "#E69F00", "established": "#009E73", "rfd": "#CC79A7",
         "direct": "#AA4499", "rcs": "#44AA99", "epoll": "#0072B2", "skb": "#999933",
         "send": "#88CCEE"}
# A setup that differs from another one by the delivery of packets, or since no worker is stopped,
# has its colour, lighter.
WAYS = {"rps": (0.5, "oo"), "free": (0.5, "")}
# Setups of another server have the same colour, darker or lighter.
SERVERS = {"demo": 0.0, "nginx": -0.4, "haproxy": 0.5, "redis": 0.0, "own": 0.0}
OTHERS = ["#332288", "#117733", "#44AA99", "#88CCEE", "#DDCC77", "#AA4499", "#CC6677", "#661100"]
MARKERS = {"demo": "o", "nginx": "s", "haproxy": "D", "redis": "^", "own": "v"}
DASHES = {"demo": "-", "nginx": "--", "haproxy": ":", "redis": "-.", "own": "-"}
# Labels of an axis of ratios whose ends have at least this ratio to each other.
TICKS = [(20, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)),
         (3, (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)),
         (1.6, (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 2.5, 3)),
         (1.2, (0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 1.3, 1.4)),
         (0, [tick / 100 for tick in range(80, 121, 2)])]


def parts(setup):
    """(server, variant) in a setup's name."""
    server, _, variant = setup.partition("-")
    return (server, variant) if server in SERVERS else ("demo", setup)


def shaded(colour, shade):
    """Lighter above 0, darker below: towards white or black by that share."""
    target = 1.0 if shade > 0 else 0.0
    return colours_of.to_hex([part + (target - part) * abs(shade)
                              for part in colours_of.to_rgb(colour)])


def style(setup):
    """(colour, hatch) of a setup, the same in every figure of every experiment."""
    server, variant = parts(setup)
    group, _, idea = variant.partition("-")
    if group in GROUPS and idea in IDEAS:
        return shaded(IDEAS[idea], GROUPS[group][0]), GROUPS[group][1]
    base, _, way = variant.rpartition("-")
    if way in WAYS and base in VARIANTS:
        return shaded(shaded(VARIANTS[base][0], SERVERS[server]), WAYS[way][0]), WAYS[way][1]
    number = zlib.crc32(variant.encode())
    colour, hatch = VARIANTS.get(
        variant, (IDEAS.get(variant, OTHERS[number % len(OTHERS)]), ""))
    return shaded(colour, SERVERS[server]), hatch


def curve(setup):
    """Keyword arguments of a line."""
    server, variant = parts(setup)
    colour, _ = style(setup)
    return {"color": colour, "marker": "x" if variant == AGAIN else MARKERS[server],
            "linestyle": DASHES[server], "capsize": 3, "linewidth": 1.5}


def load_label(load):
    return load_name(load)


def counted(study, kind="n_valid"):
    """"n = 8", or "n = 3 to 8", of the cells that have any."""
    numbers = sorted({study.numbers(cell)[kind] for cell in study.cells["cell"]} - {0})
    if not numbers:
        return "n = 0"
    return f"n = {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")


def left_out(study):
    timed = study.rows[study.rows["kind"] == "timed"]
    invalid, degraded = (timed["valid"] == 0).sum(), (
        (timed["valid"] == 1) & (timed["degraded"] != "")).sum()
    return "".join(f", {number} of {len(timed)} {word}" for number, word in
                   ((invalid, "left out as invalid"), (degraded, "degraded")) if number)


def heading(study):
    return f"{study.plan['experiment']}, {study.plan['profile']} profile"


def note(study, kind="n_valid", what="timed repetitions"):
    """The line below a figure: n, repetitions that were left out, host and run."""
    text = f"{counted(study, kind)} {what}"
    if kind == "n_valid":
        text += left_out(study)
    return f"{text}; {study.host()}; run {study.run.name}"


def legend(panels):
    """One legend beside the last panel, with the setups of all panels."""
    shown = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels()):
            shown.setdefault(name, handle)
    panels[-1].legend(shown.values(), shown.keys(), loc="upper left", bbox_to_anchor=(1, 1),
                      frameon=False)


def ratios(axes, margin):
    """A horizontal axis of ratios: logarithmic, so that 0.5 and 2 are as far from the line at 1."""
    axes.axvline(1, color="black", linewidth=1)
    if margin:
        axes.axvspan(1 / intervals.MARGIN, intervals.MARGIN, color="#eeeeee", zorder=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    # More labels than these would overlap.
    ticks = next(ticks for width, ticks in TICKS if high / low > width)
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)


def save(study, figure, name, kind="n_valid", what="timed repetitions"):
    """Writes figures/NAME.png and .svg with a line below about the measurement."""
    figure.text(0.5, -0.01, note(study, kind, what), ha="center", va="top", fontsize="small",
                color="#555555")
    path = study.run / "figures" / name
    # The file has no date, so that the same data make the same file.
    figure.savefig(path.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    shrink(drawn, path.with_suffix(".png"))
    plt.close(figure)


def shrink(drawn, path):
    """Writes a PNG of few colours, which all figures are, in a third of the space."""
    Image.open(drawn).convert("RGB").quantize(128, method=Image.Quantize.MAXCOVERAGE).save(
        path, optimize=True)
