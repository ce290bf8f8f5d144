#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Makes docs/reference.md from the declarations in the sources; make docs runs it.

Parameters are described in kmod/params.c (MODULE_PARM_DESC), counters in kmod/stats.h,
listeners in kmod/listen_seq.h, tracepoints in kmod/trace.h, calls in kmod/fastsocket_abi.h, and
columns and keys of result files in experiments/contract.py.
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference.md"
sys.path.insert(0, str(ROOT / "experiments"))
import contract  # noqa: E402 (its folder has to be named first)

COMMENT = r"/\*((?:(?!\*/).)*)\*/"
HEAD = """# Reference

`make docs` makes this page from the sources, which say the same in `modinfo fastsocket` and in
comments. What each idea is worth: [parameters.md](parameters.md). Options of `fsocketctl` and
variables of the library: `man fsocketctl`, `man libfsocket`.

"""


def source(name):
    return (ROOT / name).read_text(encoding="utf-8")


def plain(comment):
    """The text of a C comment in one line."""
    return " ".join(re.sub(r"^\s*\* ?", "", comment, flags=re.M).split())


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n"
                   for line in lines)


def parameters():
    """[(name, description, default)] in the module's order."""
    found = []
    for name, text in re.findall(r'MODULE_PARM_DESC\((\w+),\s*"(.*?)"\);', source("kmod/params.c"),
                                 re.S):
        default = re.search(r"(\w+)(?: = [^,:;]*)? \[default\]", text)
        text = re.sub(r", \w+ \[default\](?=;)| \[default\]", "", text)
        found.append((name, text, default[1]))
    return found


def fields(struct):
    """[(name, description)] of a struct of counters: each has a comment of its own."""
    body = re.search(rf"struct {struct} \{{\n(.*?)\n\}};", source("kmod/stats.h"), re.S)[1]
    return [(name, plain(text))
            for text, name in re.findall(COMMENT + r"\s*u64 (\w+);", body, re.S)]


def listener_columns():
    text = re.search(r"Columns:\n \*\n(.*?)\n \*/", source("kmod/listen_seq.h"), re.S)[1]
    return [(name, plain(said)) for name, said in
            re.findall(r"^ \* (\w+)\t+(.*?)(?=^ \* \w|\Z)", text + "\n", re.S | re.M)]


def tracepoints():
    text = source("kmod/trace.h")
    found = re.findall(COMMENT + r"\n(?:DEFINE_EVENT\(\w+, |TRACE_EVENT\()(\w+),\s*"
                       r"TP_PROTO\((.*?)\)", text, re.S)
    return [(name, ", ".join(word.split()[-1] for word in args.split(",")), plain(said))
            for said, name, args in found]


def calls():
    found = re.findall(COMMENT + r"\n#define (FSOCKET_IOC_\w+) _IO\(0xf5, 0x(\w+)\)",
                       source("kmod/fastsocket_abi.h"), re.S)
    return [(str(int(number, 16)), name, re.split(r"\.\s|; ", plain(said))[0].rstrip("."))
            for said, name, number in found]


def code(rows, *columns):
    """The rows with the cells of these columns in backquotes."""
    return [[f"`{cell}`" if i in columns else cell for i, cell in enumerate(row)] for row in rows]


def page():
    parts = [
        HEAD,
        "## Parameters\n\nRead and changed in `/sys/module/fastsocket/parameters/`, or by "
        "`fsocketctl set NAME=VALUE`; at\nloading by `modprobe fastsocket NAME=VALUE`.\n\n",
        table(("parameter", "default", "meaning"),
              code([(name, default, text) for name, text, default in parameters()], 0)),
        "\n## /proc/net/fastsocket\n\nA row for each CPU, a column for each counter, of the "
        "reader's network namespace. `fsocketctl watch`\nshows them per second.\n\n",
        table(("counter", "what it counts"), code(fields("fsocket_stats"), 0)),
        "\nOf the socket pool, for the whole machine:\n\n",
        table(("counter", "what it counts"), code(fields("fsocket_pool_stats"), 0)),
        "\n## /proc/net/fastsocket_listeners\n\nA row for each listening socket, for each of "
        "its workers, and for each local listener without one.\n`fsocketctl listeners` shows "
        "them.\n\n",
        table(("column", "meaning"), code(listener_columns(), 0)),
        "\n## Tracepoints\n\n`perf list 'fastsocket:*'`\n\n",
        table(("tracepoint", "fields", "when"), code(tracepoints(), 0)),
        "\n## Calls of /dev/fastsocket\n\nArguments and errors: `kmod/fastsocket_abi.h`.\n\n",
        table(("number", "ioctl", "what it does"), code(calls(), 1)),
        "\n## Columns of samples.csv\n\nOf all runs in `results/`; between the first two groups "
        "stand the factors of the experiment. An\nabsent measurement is an empty field.\n",
    ]
    for title, names in (("What was run", contract.IDENTITY), ("Whether it counts",
                         contract.VALIDITY), ("What was measured", contract.METRICS)):
        parts.append(f"\n{title}:\n\n" + table(("column", "meaning"), code(names.items(), 0)))
    parts.append("\n## Columns of search.csv\n\nA row for each load that was tried, before the "
                 "repetitions, to find one that is enough.\n\n"
                 + table(("column", "meaning"), code(contract.SEARCH.items(), 0)))
    parts += ["\n## run.json\n\nWhat a run was made of. Older runs have less.\n\n",
              table(("key", "what it is"), code(contract.RUN.items(), 0)),
              "\nOf hosts, under `server` and `loadgen`:\n\n",
              table(("key", "what it is"), code(contract.FACTS.items(), 0))]
    parts += ["\n## Columns of lines.csv\n\nOf each repetition in which the emulator counted, in "
              "`raw/`.\n\n", table(("column", "meaning"), code(contract.LINES.items(), 0))]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
