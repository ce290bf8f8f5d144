# SPDX-License-Identifier: GPL-2.0-only
"""The tables of a run, as Markdown. Each function takes a Study; what was not measured is
a dash, and a table of nothing is None."""
import re
from collections import defaultdict

import boots as boots_of
import bound
import counted
import intervals
import places
import search
from markdown import DASH, markdown, with_interval
from study import AGAIN, LOAD
from tools import TOOLS

VERDICTS = {"same": f"the same within {round(100 * intervals.MARGIN - 100)} %",
            "unknown": "not told apart", "few": f"fewer than {intervals.SMALLEST} rounds"}
# Numbers in a reason differ from one repetition to the next.
NUMBER = re.compile(r"\d[\d.,]*")
DETAIL = re.compile(r": .*|, and ends with.*", re.S)


def load_name(load):
    tool, concurrency, workers = load
    # A run may have a tool that no longer exists.
    much = f"{concurrency}/s" if tool in TOOLS and TOOLS[tool].open_loop else f"-c {concurrency}"
    return f"{tool} {much}, {workers} worker{'s' if workers > 1 else ''}"


def cell_median(study, cell, metric, digits):
    found = study.median(cell, metric) if cell else None
    return with_interval(*found, digits) if found else DASH


def ratio_text(one):
    return with_interval(one.value, one.low, one.high, 2) if one else DASH


def rounds_text(one):
    return str(one.n) if one else DASH


def wording(word, words=("faster", "slower")):
    """The text for a word of intervals.verdicts; None is a dash."""
    return {"above": words[0], "below": words[1], None: DASH, **VERDICTS}[word]


def short_reason(reason):
    return NUMBER.sub("N", DETAIL.sub("", reason))


def with_without(study):
    """The seed's table: a row for each count and time, a column without, a column with."""
    counts, times = [], []
    for without, with_ in study.declared:
        cell = study.cells.set_index("cell").loc[without]
        load = cell["tool"], cell["concurrency"], cell["workers"]
        which = load_name(load)
        if len(study.roles) > 1:
            which = f"{study.title(cell['setup'])}, {which}"
        counts += counted.with_without(study, which, without, with_)
        if study.rows["throughput_rps"].notna().any():
            times.append(timed_row(study, which, without, with_))
    if not counts + times:
        return None
    # Counts come first, since a busy machine does not change them.
    rows = counts + times
    seed = study.plan["reference"].get("time_s")
    if seed:
        without, with_ = (seed[setup] for setup in study.roles[0])
        rows.append([f"for reference, {study.plan['reference']['text']}",
                     f"{without} s", f"{with_} s", f"{without / with_:.2f} times as fast", DASH,
                     "1"])
    return markdown(["", "without Fastsocket", "with Fastsocket", "ratio", "verdict", "n"], rows)


def timed_row(study, which, without, with_):
    metric, unit, digits, what = "throughput_rps", "", 0, "requests per second"
    tool = study.cells.set_index("cell")["tool"][without]
    if study.values(without, "time_s").any() and not TOOLS[tool].by_seconds:
        metric, unit, digits, what = ("time_s", " s", 3,
                                      f"time for {study.plan['requests']:,} requests")
    one = study.ratio(with_, without, "throughput_rps")
    texts = [cell_median(study, cell, metric, digits) for cell in (without, with_)]
    word = study.verdicts.get(with_, "few") if one else None
    return [f"{what}, {which}", *(text + unit * (text != DASH) for text in texts),
            ratio_text(one) + " times as fast" * (one is not None), wording(word),
            rounds_text(one)]


def measured(study, cell):
    """The number of timed repetitions, and how many were left out or are degraded."""
    n = study.numbers(cell)
    all_ = n["n_valid"] + n["n_invalid"]
    parts = [f"{n['n_invalid']} of {all_} left out" if n["n_invalid"] else "",
             f"{n['n_degraded']} degraded" if n["n_degraded"] else ""]
    text = ", ".join(filter(None, parts))
    return f"{n['n_valid']}" + (f" ({text})" if text else "")


# Columns of the table of setups: heading, metric, digits.
COLUMNS = [
    ("p50, ms", "latency_p50_ms", 1), ("p99, ms", "latency_p99_ms", 1),
    ("p99.9, ms", "latency_p999_ms", 0), ("longest, ms", "latency_max_ms", 0),
    ("CPU time per request, us", "server_cpu_us_per_req", 0),
    ("context switches per request", "context_switches_per_req", 2),
    ("system calls per request", "syscalls_per_req", 2),
    ("contended locks per 1,000 requests", "lock_contended_per_kreq", 1),
    ("waited for locks per request, us", "lock_wait_us_per_req", 1),
    ("local accepts, %", "local_accept_pct", 2), ("retransmissions", "retransmits", 0),
    ("no TIME_WAIT, per request", "time_wait_overflows_per_req", 2)]


def setups(study):
    """A row for every setup with all its times."""
    rows = []
    for cell in study.cells.to_dict("records"):
        name, base = cell["cell"], study.baseline(cell)
        # A cell is not compared with itself.
        one = study.ratio(name, base, "throughput_rps") if base != name else None
        setup = study.plan["setups"][cell["setup"]].get("baseline",
                                                        study.plan["baseline"]["setup"])
        rows.append([
            load_name((cell["tool"], cell["concurrency"], cell["workers"])), cell["setup"],
            study.title(cell["setup"]), cell_median(study, name, "throughput_rps", 0),
            f"{ratio_text(one)} of {setup}" if one else DASH,
            wording(study.verdicts.get(name) if one else None), rounds_text(one),
            *(cell_median(study, name, metric, digits) for _, metric, digits in COLUMNS),
            measured(study, name)])
    header = ["load", "setup", "what it is", "requests/s", "ratio", "verdict", "rounds",
              *(heading for heading, _, _ in COLUMNS), "n"]
    # A run may have only counts, which have a table of their own.
    measures = [text for row in rows for text in row[3:-1]]
    return without_empty(header, rows) if set(measures) - {DASH} else None


def without_empty(header, rows):
    """Leaves out columns that no setup has."""
    kept = [i for i in range(len(header)) if any(row[i] != DASH for row in rows)]
    return markdown([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def without_module(setup):
    return not setup.get("preload") or setup.get("backend") == "kernel"


def against(study):
    """Fastsocket, or what the experiment names, against each of the others."""
    found = []
    for load, cells in study.loads():
        for name in cells["setup"]:
            others = study.plan["setups"][name].get("against", [])
            if name in ("fastsocket", study.plan.get("with")):
                others = [*others, *(other for other in cells["setup"]
                                     if other not in (name, AGAIN, *others)
                                     and without_module(study.plan["setups"][other]))]
            found += [(load, name, other, study.ratio(
                study.cell_of(load, name), study.cell_of(load, other), "throughput_rps"))
                for other in others if study.cell_of(load, other)]
    words = intervals.verdicts([one for *_, one in found])
    rows = [[load_name(load), name, other, ratio_text(one), wording(word), rounds_text(one)]
            for (load, name, other, one), word in zip(found, words) if one]
    return markdown(["load", "setup", "against", "ratio of requests/s", "verdict", "n"],
                    rows) if rows else None


def ideas(study):
    """The ideas of 2014, their in-tree successors, and the effect of each on this kernel."""
    rows = []
    cells = study.cells.to_dict("records")
    for cell in cells:
        setup = study.plan["setups"][cell["setup"]]
        base = study.baseline(cell)
        one = study.ratio(cell["cell"], base, "throughput_rps")
        if "successor" not in setup or not one:
            continue
        without = next((other for other in cells if lacks(study, other, setup["idea"]) and all(
            other[factor] == cell[factor] for factor in LOAD)), None)
        left_out = without and study.ratio(without["cell"], study.baseline(without),
                                           "throughput_rps")
        title = study.title(setup.get("baseline", study.plan["baseline"]["setup"]))
        rows.append([setup["idea"], setup["successor"],
                     *counted.ratio_of(study, cell["cell"], base),
                     f"{ratio_text(one)} of {title}",
                     wording(study.verdicts.get(cell["cell"]), ("pays", "costs")),
                     rounds_text(one),
                     ratio_text(study.ratio(cell["cell"], base, "context_switches_per_req")),
                     ratio_text(left_out)])
    return without_empty(
        ["idea of 2014", "its in-tree successor", *counted.RATIO_HEADINGS, "requests/s", "verdict",
         "n", "context switches per request", "requests/s when it is left out of everything"],
        rows) if rows else None


def lacks(study, cell, idea):
    setup = study.plan["setups"][cell["setup"]]
    return setup.get("idea") == idea and "successor" not in setup


def speed_up(study):
    """Throughput by number of workers, and its ratio to the fewest in the same rounds."""
    counts = sorted(set(study.cells["workers"]))
    if len(counts) == 1 or not study.rows["throughput_rps"].notna().any():
        return None
    rows = []
    for (setup, tool, concurrency), cells in study.cells.groupby(
            ["setup", "tool", "concurrency"], sort=False):
        names = cells.set_index("workers")["cell"]
        texts = []
        for count in counts:
            gain = study.ratio(names.get(count), names[names.index.min()], "throughput_rps")
            rate = cell_median(study, names.get(count), "throughput_rps", 0)
            texts.append(rate + (f", ×{ratio_text(gain)}" if gain else ""))
        if len(cells) > 1:
            rows.append([f"{tool} -c {concurrency}", study.title(setup), *texts,
                         str(min(study.numbers(name)["n_valid"] for name in names))])
    return markdown(["load", "setup", *(f"{count} worker{'s' * (count > 1)}: requests/s, "
                                        "speed-up" for count in counts), "n, at least"],
                    rows) if rows else None


def load_remedies(study):
    """A sentence on what limited the load where repetitions lacked it, or ""."""
    found = search.remedies(study.facts, study.rows[study.rows["valid"] == 0].to_dict("records"))
    return f" What limits the load, by the search before: {found}." if found else ""


def left_out(study):
    """Repetitions that are invalid or degraded, by cell and reason."""
    rows = defaultdict(int)
    for sample in study.rows.to_dict("records"):
        if sample["valid"] == 0:
            rows[sample["cell"], "left out", short_reason(sample["invalid_reason"])] += 1
        elif sample["degraded"]:
            rows[sample["cell"], "degraded", short_reason(sample["degraded"])] += 1
    tried = study.rows["cell"].value_counts()
    if not rows:
        return None
    remedies = load_remedies(study)
    return markdown(["cell", "", "why", "repetitions", "of"], [
        [cell, what, why, str(count), str(tried[cell])]
        for (cell, what, why), count in sorted(rows.items())]) + (
            f"\n{remedies.strip()}\n" if remedies else "")


def null_note(study):
    pair = study.null_pair()
    one = study.ratio(*pair, "throughput_rps") if pair else None
    if not one:
        return "This run has no null cell."
    text = (f"The baseline against its own copy in the same rounds (requests/s; no cause for a "
            f"difference): {ratio_text(one)}, n = {one.n}.")
    lines = study.ratio(*pair, counted.LINES) if counted.LINES in study.rows else None
    return text + (f" Their line transfers: {lines.value:.2f}." if lines else "")


def notes(study):
    """The notes under every table."""
    timed = study.valid[study.valid["kind"] == "timed"]
    # If each number of cores, or each kernel, is a boot, all cells that are compared share one.
    boots = 1 if boots_of.by_workers(study.plan) or boots_of.kernels(study.plan) else max(1, (
        timed["boot"] if len(timed) else study.valid["boot"]).nunique())
    boot = (f"over {boots} boots of the server, which are the unit" if boots >= intervals.BOOTS
            else f"within {boots} boot{'s' * (boots != 1)} of the server: another may differ by "
            "more")
    end = study.facts.get("rounds_end", {}).get("why")
    lower = (" Shares of spinning are lower bounds: the profile cannot see sections with "
             "interrupts off." if study.blind() else "")
    return (f"Run `{study.plan['experiment']}/{study.run.name}`, {study.host()}. n: timed "
            "repetitions, or rounds that have both cells of a ratio; [ ]: 95 % interval, none "
            f"below n = {intervals.SMALLEST}; of ratios {boot}. Verdicts are on "
            "requests/s and corrected by Holm's method for the number of comparisons: of the "
            f"pair without and with, and of all others.{lower} {null_note(study)}"
            + (f" Rounds: {end}." if end else "") + search.chosen_text(study.facts))


def every(study):
    """(name, table) of each table of the run, in the order of printing."""
    found = [("with-without", with_without(study)), ("counts", counted.setups(study)),
             ("counts-workers", counted.over_workers(study)),
             ("functions", counted.functions(study)), ("lines", counted.lines(study)),
             ("bound", bound.table(study)),
             ("setups", setups(study)), ("against", against(study)), ("ideas", ideas(study)),
             ("workers", speed_up(study)), ("spinning", places.spinning(study)),
             ("spinning-places", places.spinning_places(study)), ("locks", places.locks(study)),
             ("left-out", left_out(study))]
    return [(name, table) for name, table in found if table]
