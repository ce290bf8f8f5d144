#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes a run's report.html: one file that opens without a network or a server.

It has the question, the answer in a sentence, every table and figure, the profiles with and
without side by side, as tables and as flame graphs (flame.py), both hosts, and the commands that
repeat the run. Tables and figures are those in the run's folder: summarise.py and plots/plot.py
make them first.
"""
import argparse
import base64
import shlex
import sys
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

import conditions
import contract
import counted
import flame
import latencies
import places
import summarise
import tables
from markdown import DASH, number, with_interval
from raws import Raw
from study import Study

# Heading, one sentence, figures, tables. Figures and tables that a run does not have are left
# out.
SECTIONS = [
    ("Without and with", "", ["forest", "counts"], ["with-without"]),
    ("Counts", "Cache lines that move between cores, and instructions, for each connection.",
     ["counts-workers"], ["counts-workers", "counts", "functions", "lines", "bound"]),
    ("Times", "", ["throughput", "workers", "concurrency"], ["setups", "against", "ideas",
                                                             "workers"]),
    ("Latency", "ab, wrk and redis-benchmark are closed loops: they send fewer requests to a "
     "server that stalls, so the latency for users at a fixed rate is not measured. "
     "The table adds the requests of all valid repetitions by latency, of ab and httperf in whole "
     f"ms; a percentile is given if {latencies.SLOWER} requests or more were slower.",
     ["latency", "tail"], []),
    ("Locks", "", [], ["spinning", "spinning-places", "locks"]),
    ("Flame graphs", "The server's busy time. A box is a function, and the boxes above it are the "
     "functions that it called; its width is its share of the busy samples. The pointer on a box "
     "shows its numbers. Boxes of less than 0.2 % are left out.", [], []),
    ("What was left out", "Invalid repetitions are not averaged in; degraded ones are.", [],
     ["left-out"]),
]
LONG = 16
# The names of long tables.
ROWS = {"functions": "transfers by function", "lines": "lines that move most",
        "spinning-places": "places that spin", "locks": "contended locks"}


def parse(text):
    """A Markdown table as {header, rows}: lists of texts, with code marked up."""
    lines = [line for line in text.splitlines() if line.startswith("|")]

    def cells(line):
        return [code(cell.strip()) for cell in line.strip().strip("|").split(" | ")]

    rows = [cells(line) for line in lines[2:]]
    return {"header": cells(lines[0]), "rows": rows, "folded": len(rows) > LONG}


def code(text):
    """Marks text between backticks as a name."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part
                           for i, part in enumerate(parts))


def picture(path):
    return {"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}


def answer(study):
    """One sentence on the first pair that the experiment declares."""
    if not study.declared:
        return ("This experiment declares no pair without and with: its ratios are in the forest "
                "plot and the tables.")
    without, with_ = study.declared[0]
    cell = study.cells.set_index("cell").loc[with_]
    parts = []
    lines = [study.median(name, counted.LINES) if counted.LINES in study.rows else None
             for name in (without, with_)]
    if all(lines):
        parts.append(f"moves {number(lines[1][0], 0)} cache lines between cores per {study.each()} "
                     f"instead of {number(lines[0][0], 0)} "
                     f"({counted.times(study.ratio(with_, without, counted.LINES))})")
    one = study.ratio(with_, without, "throughput_rps")
    if one:
        word = tables.wording(study.verdicts.get(with_, "few"))
        parts.append(f"answers {with_interval(one.value, one.low, one.high, 2)} times the "
                     f"requests per second in {one.n} rounds ({word})")
    load = tables.load_name((cell["tool"], cell["concurrency"], cell["workers"]))
    text = (f"{study.title(cell['setup'])}, {load}: the server "
            f"{', and '.join(parts) or 'was not measured'}.")
    return text[0].upper() + text[1:]


def profiles(study):
    """A section for each pair that was profiled: symbols, without, with, difference."""
    raw, found = Raw(study.run), []
    for without, with_ in study.declared:
        (before, n_before), (after, n_after) = (places.profile(study, raw, cell)
                                                for cell in (without, with_))
        if not (before and after):
            continue
        rows = [[code(f"`{symbol}`"), *texts] for symbol, *texts
                in places.profile_differences(before, after)]
        found.append({"header": ["function", f"{without}, % of busy samples (n = {n_before})",
                                 f"{with_}, % (n = {n_after})", "difference"],
                      "rows": rows, "folded": False})
    return found


def flames(study):
    """A section's graphs: for each pair that was profiled, without, with, and the difference."""
    raw = Raw(study.run)
    return [Markup(svg) for pair in study.declared for svg in flame.pair(study, raw, *pair)]


def sections(study):
    chosen = []
    for heading, text, pictures, names in SECTIONS:
        paths = [study.run / "figures" / f"{name}.svg" for name in pictures]
        texts = [study.run / "tables" / f"{name}.md" for name in names]
        one = {"id": heading.lower().replace(" ", "-"), "heading": heading, "text": text,
               "pictures": [picture(path) for path in paths if path.exists()],
               "tables": [parse(path.read_text(encoding="utf-8")) |
                          {"name": ROWS.get(path.stem, path.stem)} for path in texts
                          if path.exists()]}
        if heading == "Locks":
            one["tables"] = [*one["tables"][:1], *profiles(study), *one["tables"][1:]]
        if heading == "Latency":
            one["tables"] += filter(None, [latencies.table(study, Raw(study.run),
                                                           tables.load_name)])
        if heading == "What was left out":
            one["text"] += tables.load_remedies(study)
        one["flames"] = flames(study) if heading == "Flame graphs" else []
        if one["pictures"] or one["tables"] or one["flames"]:
            chosen.append(one)
    return chosen


def hosts(study):
    """A table of what the server and each load generator say of themselves."""
    facts = study.facts
    generators = contract.generators(facts)
    found = [facts.get("server", {}), *generators]
    names = dict.fromkeys(name for host in found for name in host)
    rows = [[name.replace("_", " "), *(host.get(name, DASH) for host in found)] for name in names]
    if "sources" in facts:
        rows.append(["source addresses", DASH,
                     *(", ".join(own) or DASH for own in facts["sources"])])
    boots = ", ".join(boot["boot_id"] for boot in facts.get("boots", []))
    numbers = range(1, len(generators) + 1) if len(generators) > 1 else [""]
    return {"header": ["", "server", *(f"load generator {number}".strip() for number in numbers)],
            "rows": [*rows, ["boots of the server", boots, *[DASH] * len(generators)]]}


def commands(study):
    """The commands that repeat the run. Planned with its seed, the sweep goes on in its order; runs
    that an older version began do not have the sweep's command."""
    plan, facts = study.plan, study.facts
    words = ["experiments/plan.py", plan["experiment"], "--profile", plan["profile"],
             "--seed", str(facts.get("seed")),
             *(word for setting in facts.get("settings") or [] for word in ("--set", setting)),
             "--fresh"]
    dirty = "     # and changes that were not committed" if facts.get("git_dirty") else ""
    sweep = facts.get("command") or conditions.command(facts, facts.get("inventory", "lab.yml"))
    return (f"git checkout {facts.get('git_commit', '(unknown)')}{dirty}\n"
            f"{shlex.join(words)}     # for the same order\n"
            f"cd playbooks\n{sweep}")


def render(study):
    """The whole file as text."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True,
                                     undefined=jinja2.StrictUndefined,
                                     loader=jinja2.FileSystemLoader(Path(__file__).parent))
    plan = study.plan
    return environment.get_template("report.html.j2").render(
        title=f"{plan['experiment']}, {study.run.name}", question=plan["question"].strip(),
        answer=answer(study), missing=summarise.lacking(study),
        notes=code(tables.notes(study)), sections=sections(study), hosts=hosts(study),
        commands=commands(study))


def main():
    parser = argparse.ArgumentParser(description="Write report.html of runs.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    for run in parser.parse_args().run:
        contract.known(run)
        if not (run / "tables").is_dir():
            sys.exit(f"report: {run.name} has no tables: run experiments/summarise.py and "
                     "plots/plot.py first")
        study = Study(run)
        contract.write_file(run / "report.html", render(study))
        print(f"{answer(study)}\nreport: {run}/report.html")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"report: {error}")
