# SPDX-License-Identifier: GPL-2.0-only
"""Latency over all timed repetitions of a cell: counts by latency can be added, percentiles not.

A repetition of some thousand requests says little about its slowest thousandth; all repetitions
together say more. A percentile is given if at least SLOWER requests were slower.
"""
import csv
import io
from collections import Counter

from markdown import DASH
from tools.base import percentile_of

SLOWER = 10
PERCENTS = (50, 90, 99, 99.9, 99.99)


def requests_by_latency(study, raw, cell):
    """Sorted [(ms, requests)] over the repetitions of a cell; empty where there are none.

    It is empty, too, where a valid repetition has no such file: an old run kept none of degraded
    repetitions, and the requests of the others alone would look faster than the cell was.
    """
    counts = Counter()
    for sample in study.own(cell, "timed").to_dict("records"):
        content = raw.read(cell, sample["repetition"], "latencies.csv")
        if content is None:
            return []
        for row in csv.DictReader(io.StringIO(content.decode())):
            if row["time"] == "total":
                # Whole ms, but of wrk finer ones.
                ms = int(row["ms"]) if row["ms"].isdigit() else float(row["ms"])
                counts[ms] += int(row["requests"])
    return sorted(counts.items())


def percentile(counts, percent):
    """ms, of sorted [(ms, requests)]; None where too few requests are slower."""
    total = sum(number for _, number in counts)
    if total * (100 - percent) < 100 * SLOWER * (1 - 1e-9):
        return None
    return percentile_of(dict(counts), percent)


def table(study, raw, title):
    """{header, rows}, texts; None where no tool has listed its requests. title: of a load."""
    rows = []
    for load, cells in study.loads():
        for cell in cells.to_dict("records"):
            counts = requests_by_latency(study, raw, cell["cell"])
            if not counts:
                continue
            found = [percentile(counts, percent) for percent in PERCENTS]
            rows.append([title(load), study.title(cell["setup"]),
                         f"{sum(number for _, number in counts):,}",
                         *(DASH if one is None else str(one) for one in found),
                         str(counts[-1][0])])
    return {"header": ["load", "setup", "requests of all repetitions",
                       *(f"p{percent}, ms" for percent in PERCENTS), "longest, ms"],
            "rows": rows, "folded": False} if rows else None
