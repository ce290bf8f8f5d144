# SPDX-License-Identifier: GPL-2.0-only
"""Tables of what happened where: spinning and contended locks by function and caller."""
import csv
import io

import profiles
from markdown import DASH, markdown, number
from raws import Raw

PROFILE_ROWS = 25


def read_table(raw, sample, name):
    """Rows of raw/CELL/REPETITION/NAME as dictionaries of text; none where it is not there."""
    content = raw.read(sample["cell"], sample["repetition"], name)
    return list(csv.DictReader(io.StringIO(content.decode()))) if content else []


def by_place(study, name, columns):
    """Sums of raw/CELL/REPETITION/NAME over valid repetitions: {cell: (repetitions, requests,
    {place: sums})}, cells as the experiment lists them.

    columns: how many of the file's columns say the place; the others are summed.
    """
    raw, found = Raw(study.run), {}
    for cell in study.cells["cell"]:
        repetitions, requests, sums = 0, 0, {}
        for sample in study.own(cell).to_dict("records"):
            rows = read_table(raw, sample, name)
            if not rows and raw.read(cell, sample["repetition"], name) is None:
                continue
            repetitions, requests = repetitions + 1, requests + sample["requests"]
            for row in rows:
                texts = list(row.values())
                own = sums.setdefault(tuple(texts[:columns]), [0] * len(texts[columns:]))
                own[:] = [value + float(more) for value, more in zip(own, texts[columns:])]
        if repetitions:
            found[cell] = repetitions, requests, sums
    return found


def most(sums):
    """The ten places with most, and the sum of the others."""
    places = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    return places[:10], [sum(column) for column in zip(*(values for _, values in places[10:]))]


def locks(study):
    """Contended locks by the function that took them and its caller."""
    rows = []
    for cell, (repetitions, requests, sums) in by_place(study, "locks.csv", 3).items():
        places, rest = most(sums)
        for (kind, function, caller), values in places:
            rows.append([cell, kind, f"`{function}`", f"`{caller}`",
                         *(number(1000 * value / requests, 2) for value in values),
                         str(repetitions)])
        if rest:
            rows.append([cell, f"{len(sums) - len(places)} more places", "", "",
                         *(number(1000 * value / requests, 2) for value in rest),
                         str(repetitions)])
    return markdown(["cell", "kind", "lock taken in", "called by", "contended per 1,000 requests",
                     "waited per 1,000 requests, us", "n"], rows) if rows else None


def spinning_places(study):
    """Spinning by the function that took the lock and its caller."""
    rows = []
    for cell, (repetitions, _, sums) in by_place(study, "spinning.csv", 2).items():
        places, rest = most(sums)
        for (function, caller), (share,) in places:
            rows.append([cell, f"`{function}`", f"`{caller}`", number(share / repetitions, 2),
                         str(repetitions)])
        if rest:
            rows.append([cell, f"{len(sums) - len(places)} more places", "",
                         number(rest[0] / repetitions, 2), str(repetitions)])
    return markdown(["cell", "lock taken in", "called by", bound(study), "n"],
                    rows) if rows else None


def bound(study):
    return ("share of busy samples, %, at least" if study.blind()
            else "share of busy samples, %")


def spinning(study):
    """The cells where spin_pct was measured."""
    rows = []
    for cell in study.cells.to_dict("records"):
        found = study.median(cell["cell"], "spin_pct")
        if found:
            rows.append([f"{cell['tool']} -c {cell['concurrency']}, {cell['workers']} workers",
                         cell["setup"], number(found[0], 2) if found else DASH,
                         str(study.numbers(cell["cell"])["n_profiles"])])
    return markdown(["load", "setup", f"spinning for locks: {bound(study)}", "n"],
                    rows) if rows else None


def profile(study, raw, cell):
    """({symbol: % of busy samples}, repetitions) of a cell's perf repetitions."""
    shares, repetitions = {}, 0
    for sample in study.own(cell, "profiles").to_dict("records"):
        report = raw.read(cell, sample["repetition"], "perf-report.txt")
        if report:
            symbols = profiles.by_symbol(report)
            busy = sum(share for _, share in symbols) or 1
            repetitions += 1
            for symbol, share in symbols:
                shares[symbol] = shares.get(symbol, 0) + 100 * share / busy
    return {symbol: share / repetitions for symbol, share in shares.items()}, repetitions


def profile_differences(before, after):
    """[symbol, % before, % after, difference] as texts, the largest differences first; without
    those that are 0 in print."""
    differences = {symbol: after.get(symbol, 0) - before.get(symbol, 0)
                   for symbol in {*before, *after}}
    symbols = sorted(differences, key=lambda symbol: (-abs(differences[symbol]), symbol))
    return [[symbol, *(number(one.get(symbol, 0), 2) for one in (before, after)),
             f"{differences[symbol]:+.2f}"] for symbol in symbols[:PROFILE_ROWS]
            if round(abs(differences[symbol]), 2)]
