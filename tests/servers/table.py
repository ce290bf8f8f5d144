#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Makes docs/servers.md of results of test_servers.py:

    tests/servers/table.py RESULTS > docs/servers.md
"""
import json
import sys

HEAD = """# Real servers under the library

<!-- Made by tests/servers/table.py. -->

Each server from Debian's packages, in the lab, plain and under `fsocketctl run`: connections from
every core, one after the other; then connections while it reloads, as its own manual says. *Local*:
accepted from the local listener of the worker's core. *Narrowed*: threads and children that are no
workers and may not use all cores. A reload that loses connections plain loses them here, too.

"""
COLUMNS = ["server", "kernel", "failed, plain", "failed", "local", "reload failed, plain",
           "reload failed", "local afterwards", "narrowed", "fsocketctl run says"]


def failed(part):
    return f"{part['failed']} of {part['connections']}" if part else "–"


def line(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def row(result):
    plain, ours = result["plain"], result["preloaded"]
    cells = [result["name"], result["kernel"].split("-")[0], failed(plain["load"]),
             failed(ours["load"]), ours["local"], failed(plain.get("reload")),
             failed(ours.get("reload")), ours.get("local_afterwards", "–"),
             ", ".join(sorted(set(ours["narrowed"]))) or "none", ours["verdict"] or "–"]
    return line(cells)


def main():
    print(HEAD + line(COLUMNS))
    print(line(["---"] * len(COLUMNS)))
    with open(sys.argv[1], encoding="utf-8") as results:
        last = {json.loads(text)["name"]: json.loads(text) for text in results}
    for result in last.values():
        print(row(result))


main()
