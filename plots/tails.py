# SPDX-License-Identifier: GPL-2.0-only
"""figures/TOOL-latency-C: latency over requests (gnuplot); figures/tail: the longest of them.

Both show all valid timed repetitions together, since counts by latency can be added.
"""
import io
import math
import subprocess
import tempfile
from pathlib import Path

from latencies import requests_by_latency
from look import AGAIN, heading, legend, load_label, note, plt, save, shrink, style
from raws import Raw

# More curves than this cannot be told apart.
FEW = 8


def cumulated(counts):
    """[(share of requests that were no slower, ms)], shares from 0 to 1."""
    total, so_far, points = sum(number for _, number in counts), 0, []
    for latency, number in counts:
        points.append((so_far / total, latency))
        so_far += number
        points.append((so_far / total, latency))
    return points


def thinned(points, closer=0.004):
    """Leaves out points that look the same as the one before: they are closer than a share of
    the scale, in latency and in the share of slower requests, both logarithmic."""
    kept = [points[0]]
    for point in points[1:-1]:
        near = all(abs(math.log(max(one, 1e-9) / max(other, 1e-9))) < 10 * closer for one, other in
                   ((1 - point[0], 1 - kept[-1][0]), (point[1], kept[-1][1])))
        if not near or abs(point[0] - kept[-1][0]) > closer:
            kept.append(point)
    return [*kept, points[-1]]


def quoted(text):
    """A text for gnuplot; folders and processors may have names with an apostrophe."""
    return "'{}'".format(text.replace("'", "''"))


def ab_latency(study, load, curves, name):
    with tempfile.TemporaryDirectory() as tmp:
        files, names, colours = [], [], []
        for setup, points in curves:
            path = Path(tmp) / f"{setup}.tsv"
            path.write_text("".join(f"{100 * share:.4f}\t{latency}\n" for share, latency in points),
                            encoding="utf-8")
            files.append(str(path))
            names.append(study.title(setup).replace("'", "").replace('"', ""))
            colours.append(style(setup)[0])
        titles = " ".join(f'"{name}"' for name in names)
        words = {"out": f"{study.run}/figures/{name}", "files": " ".join(files), "names": titles,
                 "colours": " ".join(colours), "note": note(study),
                 "heading": f"{heading(study)}: {load_label(load)}, all timed repetitions"}
        subprocess.run(
            ["gnuplot", "-e", "; ".join(f"{word}={quoted(text)}" for word, text in words.items()),
             Path(__file__).parent / "ab-latency.gp"], check=True)
    picture = study.run / "figures" / f"{name}.png"
    shrink(io.BytesIO(picture.read_bytes()), picture)


def tail(study, found):
    """Latency over 1 - p, both logarithmic: a straight line is a heavy tail."""
    figure, panels = plt.subplots(1, len(found), figsize=(2 + 4.5 * len(found), 4.5),
                                  squeeze=False)
    for axes, (load, curves) in zip(panels[0], found):
        for setup, points in curves:
            shares, latencies = zip(*((1 - share, latency) for share, latency in points
                                      if share < 1))
            axes.plot(shares, latencies, color=style(setup)[0], label=study.title(setup),
                      linestyle="--" if setup == AGAIN else "-", linewidth=1.5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(1, min(axes.get_xlim()[0], 1e-4))
        ticks = [tick for tick in (1, 0.1, 0.01, 0.001, 0.0001) if tick >= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"p{100 * (1 - tick):g}" for tick in ticks])
        axes.set_xlabel("percentile p, on a logarithmic scale of 1 − p")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda latency, _: f"{latency:,g}")
        axes.grid(color="#dddddd")
        axes.set_title(load_label(load))
        axes.set_ylabel("latency (ms)")
    legend(panels[0])
    figure.suptitle(f"{heading(study)}: the slowest requests of all timed repetitions")
    figure.tight_layout()
    save(study, figure, "tail")


def draw(study):
    if study.cells["setup"].nunique() > FEW:
        return
    raw, found = Raw(study.run), []
    workers_vary = study.cells["workers"].nunique() > 1
    for load, cells in study.loads():
        counts = [(cell["setup"], requests_by_latency(study, raw, cell["cell"]))
                  for cell in cells.to_dict("records")]
        curves = [(setup, thinned(cumulated(one))) for setup, one in counts if one]
        if curves:
            found.append((load, curves))
            ab_latency(study, load, curves,
                       f"{load[0]}-latency-{load[1]}" + f"-{load[2]}" * workers_vary)
    if found:
        tail(study, found)
