# SPDX-License-Identifier: GPL-2.0-only
"""Tables of what repetitions c1, c2... counted: instructions, and cache lines that moved
between cores, per connection. Each function takes a Study; a table of nothing is None."""
from collections import defaultdict

import boots
import places
from markdown import DASH, markdown, number, with_interval
from raws import Raw
from study import AGAIN

LINES = "line_transfers_per_req"
# Heading, metric, digits.
METRICS = [("line transfers between cores", LINES, 1),
           ("different lines moved", "lines_moved_per_req", 1),
           ("kernel instructions", "kernel_instructions_per_req", 0),
           ("user instructions", "user_instructions_per_req", 0)]
# The columns of the same measures without load, in the table of counts.
BACKGROUND = [("background transfers per {each}", "background_transfers_per_req", 1),
              ("transfers per second without load", "idle_transfers_per_s", 0)]
# Of a processor, where it has such counters.
PROCESSOR = [("cycles per {each}", "cycles_per_req", 0),
             ("cache misses per {each}", "cache_misses_per_req", 1),
             ("loads of lines that another core had changed per {each}", "hitm_loads_per_req", 1)]
RATIO_HEADINGS = ["line transfers", "kernel instructions"]
# The number of functions that are shown, and of each setup of lines, or of kinds of lines.
MOST_FUNCTIONS = 20
MOST_LINES = 8
MOST_KINDS = 15


def known(study):
    return any(metric in study.rows and study.rows[metric].notna().any()
               for _, metric, _ in METRICS)


def repetitions(study, cell):
    return str(study.numbers(cell)["n_counts"])


def text(study, cell, metric, digits):
    found = study.median(cell, metric)
    return with_interval(*found, digits) if found else DASH


def times(one):
    """A ratio in words. A ratio below 1 is inverted, since fewer is better."""
    if one is None:
        return DASH
    if one.value < 1:
        return f"{1 / one.value:.2f} times fewer"
    return f"{one.value:.2f} times as many"


def with_without(study, which, without, with_):
    """Rows of the with/without table."""
    rows = []
    for heading, metric, digits in METRICS:
        if metric == "lines_moved_per_req":     # in the table of counts
            continue
        if not (metric in study.rows and study.median(without, metric)
                and study.median(with_, metric)):
            continue
        rows.append([f"{heading} per {study.each()}, {which}",
                     *(text(study, cell, metric, digits) for cell in (without, with_)),
                     times(study.ratio(with_, without, metric)), DASH,
                     repetitions(study, with_)])
    return rows


def ratio_of(study, cell, base):
    """Texts for RATIO_HEADINGS."""
    ratios = [study.ratio(cell, base, metric) if metric in study.rows else None
              for metric in (LINES, "kernel_instructions_per_req")]
    return [number(one.value, 2) if one else DASH for one in ratios]


def source(study, cell):
    """The counter in words: the emulator with its quantum, or the processor."""
    if "counts_source" not in study.rows:
        return DASH
    found = study.own(cell, "counts")["counts_source"]
    return ", ".join(sorted(set(filter(None, found.astype(str))))) or DASH


def setups(study):
    """A row for every setup with its counts."""
    if not known(study):
        return None
    rows = []
    own = [column for column in PROCESSOR if column[1] in study.rows
           and study.rows[column[1]].notna().any()]
    for cell in study.cells.to_dict("records"):
        name, base = cell["cell"], study.baseline(cell)
        if not any(study.median(name, metric) for _, metric, _ in METRICS
                   if metric in study.rows):
            continue
        ratios = ratio_of(study, name, base) if base != name else [DASH, DASH]
        rows.append([f"{cell['tool']} -c {cell['concurrency']}, {cell['workers']} workers",
                     cell["setup"], study.title(cell["setup"]),
                     text(study, name, LINES, 1), ratios[0],
                     *(text(study, name, metric, digits) if metric in study.rows else DASH
                       for _, metric, digits in BACKGROUND),
                     text(study, name, "lines_moved_per_req", 1),
                     text(study, name, "kernel_instructions_per_req", 0), ratios[1],
                     text(study, name, "user_instructions_per_req", 0),
                     *(text(study, name, metric, digits) for _, metric, digits in own),
                     source(study, name), repetitions(study, name)])
    base, each = study.plan["baseline"]["setup"], study.each()
    return markdown(
        ["load", "setup", "what it is", f"line transfers per {each}",
         f"ratio to {base}, or its own baseline",
         *(heading.format(each=each) for heading, *_ in BACKGROUND),
         f"lines moved per {each}",
         f"kernel instructions per {each}", "ratio", f"user instructions per {each}",
         *(heading.format(each=each) for heading, *_ in own),
         "counted by", "n"], rows) if rows else None


def by_place(study):
    """{cell: {(group, function): line transfers per connection}}, groups as counting/groups.c
    names them.

    A function such as a spin lock may belong to several groups, depending on its caller. So the
    groups come from the chains of callers. Rare chains are not in the file and are ("rest", "").
    """
    raw, found = Raw(study.run), {}
    for cell in study.cells["cell"]:
        sums, number_of = defaultdict(float), 0
        for sample in study.own(cell, "counts").to_dict("records"):
            rows = [row for row in places.read_table(raw, sample, "callers.csv")
                    if row["group"] != "background"]
            number_of += bool(rows)
            for row in rows:
                sums[row["group"], row["chain"].split(" < ")[0]] += float(row["transfers"])
            if rows:
                sums["rest", ""] += max(0, float(sample[LINES]) - sum(
                    float(row["transfers"]) for row in rows))
        if number_of:
            found[cell] = {place: value / number_of for place, value in sums.items()}
    return found


def by_group(study):
    """{cell: {group: line transfers per connection}}."""
    found = {}
    for cell, places_of in by_place(study).items():
        found[cell] = defaultdict(float)
        for (group, _), value in places_of.items():
            found[cell][group] += value
    return found


def shown_load(study):
    """The load of tables and figures that have one: of most workers the first."""
    return max((load for load, _ in study.loads()), key=lambda load: load[-1])


def over_workers(study):
    """Counts by the number of workers: a row for each setup and count."""
    levels = sorted(set(study.cells["workers"]))
    if len(levels) == 1 or not known(study):
        return None
    rows = []
    for (setup, tool, concurrency), cells in study.cells.groupby(
            ["setup", "tool", "concurrency"], sort=False):
        names = cells.set_index("workers")["cell"]
        for heading, metric, digits in METRICS:
            texts = [text(study, names.get(level), metric, digits) if metric in study.rows
                     and names.get(level) else DASH for level in levels]
            if setup != AGAIN and set(texts) != {DASH}:
                rows.append([f"{tool} -c {concurrency}", study.title(setup), heading, *texts,
                             str(min(study.numbers(name)["n_counts"] for name in names))])
    what = "core" if boots.by_workers(study.plan) else "worker"
    return markdown(["load", "setup", f"per {study.each()}",
                     *(f"{level} {what}{'s' * (level > 1)}" for level in levels),
                     "n, at least"], rows) if rows else None


def functions(study):
    """Line transfers by function: a row for each, a column for each setup of one load."""
    found = by_place(study)
    load = shown_load(study)
    cells = {setup: study.cell_of(load, setup) for setup in study.cells["setup"].unique()
             if setup != AGAIN and study.cell_of(load, setup) in found}
    if not cells:
        return None
    highest = defaultdict(float)
    for cell in cells.values():
        for place, value in found[cell].items():
            highest[place] = max(highest[place], value)
    shown = sorted(filter(lambda place: place[1], highest),
                   key=lambda place: (-highest[place], place))[:MOST_FUNCTIONS]
    rows = [[group, f"`{function}`", *(number(found[cell].get((group, function), 0), 1)
                                       for cell in cells.values())]
            for group, function in shown]
    rest = [sum(value for place, value in found[cell].items() if place not in shown)
            for cell in cells.values()]
    rows.append(["", "all others",
                 *(number(value, 1) for value in rest)])
    rows.append(["", "n", *(repetitions(study, cell) for cell in cells.values())])
    return markdown(["group", f"line transfers per {study.each()} in", *cells], rows)


def what_of(row):
    """The object of a row of lines.csv. If it is not known, the line alone; in runs older than that
    column, also the function that moves it."""
    if "what" not in row:
        return " ".join(filter(None, [row["line"], row["moved_by"]]))
    if not row["what"]:
        return " ".join(filter(None, [row["kind"], row["line"]]))
    return f"per-CPU {row['what']}" if row["cpu"] else row["what"]


def read_lines(study):
    """{cell: (rows of lines.csv of all repetitions, the number of repetitions)}."""
    raw, found = Raw(study.run), {}
    for cell in study.cells["cell"]:
        tables = [places.read_table(raw, sample, "lines.csv")
                  for sample in study.own(cell, "counts").to_dict("records")]
        rows = [row for table in tables for row in table]
        if rows:
            found[cell] = rows, sum(map(bool, tables))
    return found


def single_lines(read):
    """{cell: {(line, what it is): transfers per connection}} of lines with an address. read: by
    read_lines()."""
    found = {}
    for cell, (rows, number_of) in read.items():
        sums = defaultdict(float)
        for row in rows:
            if row["line"]:
                sums[row["line"], what_of(row)] += moves(row)
        found[cell] = {line: value / number_of for line, value in sums.items()}
    return found


def lines(study):
    """The lines that move most in each cell; lines of one kind, as of sockets, share a row."""
    read = read_lines(study)
    if not any("what" in row for found, _ in read.values() for row in found):
        return unnamed_lines(study, read)
    rows = []
    for cell, (found, number_of) in read.items():
        kinds = defaultdict(list)
        for row in found:
            kinds[what_of(row)].append(row)
        shown = sorted(((sum(map(moves, same)) / number_of, what, same)
                        for what, same in kinds.items()), key=lambda kind: (-kind[0], kind[1]))
        rows += [[cell, f"`{what}`", *(f"`{word}`" if word else "" for word in place_of(same)),
                  number(len(same) / number_of, 0), number(value, 2),
                  number(hottest(same) / number_of, 2), repetitions(study, cell)]
                 for value, what, same in shown[:MOST_KINDS]]
        rest = shown[MOST_KINDS:]
        if rest:
            rows.append([cell, f"{len(rest)} more kinds", "", "",
                         number(sum(len(same) for *_, same in rest) / number_of, 0),
                         number(sum(value for value, *_ in rest), 2),
                         number(max(hottest(same) for *_, same in rest) / number_of, 2),
                         repetitions(study, cell)])
    return markdown(["cell", "what the lines are", "member", "moved most by",
                     "lines of a repetition", f"transfers per {study.each()}",
                     "of the line that moves most", "n"], rows)


def moves(row):
    return float(row["transfers_per_req"] or 0)


def hottest(rows):
    """Transfers of the line that moves most, of all repetitions together. Lines that move too
    rarely to have an address are no candidates, unless there are no others."""
    sums = defaultdict(float)
    for row in rows:
        if row["line"]:
            sums[row["line"]] += moves(row)
    return max(sums.values(), default=max(map(moves, rows)))


def place_of(rows):
    """The member and the function where lines of one kind move most."""
    sums = defaultdict(float)
    for row in rows:
        sums[row.get("member", ""), row["moved_by"]] += moves(row)
    return max(sums, key=lambda place: (sums[place], place))


def unnamed_lines(study, read):
    """The lines that move most in each cell of a run that does not know their objects."""
    rows = []
    for cell, places_of in single_lines(read).items():
        most = sorted(places_of.items(), key=lambda item: (-item[1], item[0]))[:MOST_LINES]
        rows += [[cell, what, number(value, 2), repetitions(study, cell)]
                 for (_, what), value in most]
    return markdown(["cell", "line", f"transfers per {study.each()}", "n"], rows) if rows else None
