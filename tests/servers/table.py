#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Makes docs/servers.md of results of test_servers.py:

    tests/servers/table.py RESULTS > docs/servers.md
"""
import json
import re
import sys

from tried import SERVERS

HEAD = """# Real servers under the library

<!-- Made by tests/servers/table.py of what tests/servers/check.py has printed. -->

Each server from Debian's packages, unmodified, in the lab, on Debian's kernels and some emulated
**cores**, with four workers if it has workers: without the library (*plain*), and under `fsocketctl
run`. **Day** is when it was run with the library. Clients on every core make one connection after
the other. **Connections** is their number. The next columns are the connections that were not
answered, plain and with the library; then the same while the server reloads, as its own manual
says, from a second before until two seconds after.

- **Local**: how many of these connections the worker on the core of arrival accepted; and of 25
  more for each core after the reload. With four workers on 8 cores half of the connections arrive
  on a core without a worker; the kernel backend's number has these, too, as it counts what a
  worker accepts from its own socket.
- **Narrowed**: threads and children that are not workers and may not use all cores, although they
  may without the library. (The demo pins its workers itself.)
- **`fsocketctl run` says**: its verdict, without the remedies.

A server whose workers do not wait with epoll, or that has one acceptor only, runs as without the
library. No time is told here, as it depends on what else the machine does. At a reload uWSGI and
PHP-FPM end workers that are still answering, with the library or without: each run may lose a
few connections or none. uWSGI's master then runs its program again, when no worker is left.
Each row is of its last run, with the sources of its day, and what is *not run*, or missing, has not
been measured.
`make test-servers` runs all of them, with 10,000 connections each, and writes this page again.
"""
COLUMNS = ["server", "kernel", "cores", "day", "connections", "failed, plain", "failed", "local",
           "reload: failed, plain", "reload: failed", "local afterwards", "narrowed",
           "`fsocketctl run` says"]
SECTIONS = {
    "module": """
## With the module
""",
    "kernel": """
## With the kernel backend

The module is not loaded: `fsocketctl run --backend=kernel`. [A table of guarantees](backends.md)
compares module, kernel backend, SO_REUSEPORT by hand, and none of them: locality, the queue of a
worker that is dead, busy or stopped, order, backlog, the sockets that `ss` shows.
""",
}


def failed(part, total=True):
    """How many failed, perhaps of how many, and what the server did to them."""
    if not part:
        return "–"
    of = f" of {part['connections']}" if total else ""
    why = ", ".join(part["errors"])
    return f"**{part['failed']}**{of} ({why})" if part["failed"] else f"0{of}"


def line(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def verdict(ours):
    """The verdict comes after 5 s, which is too early for some servers under an emulator."""
    late = f" (it answered after {ours['seconds']} s)" if ours["seconds"] > 5 else ""
    return ours["verdict"].split(";")[0] + late or "–"


def narrowed(plain, ours):
    return ", ".join(sorted(set(ours["narrowed"]) - set(plain.get("narrowed", [])))) or "none"


def release(kernel):
    return [int(number) for number in re.findall(r"\d+", kernel)]


def row(plain, ours):
    cells = [ours["name"], re.split("[-+]", ours["kernel"])[0], ours["cores"], ours["day"],
             ours["load"]["connections"],
             failed(plain["load"], False) if plain else "not run", failed(ours["load"], False),
             ours["local"], failed(plain.get("reload")), failed(ours.get("reload")),
             ours.get("local_afterwards", "–"),
             narrowed(plain, ours), verdict(ours)]
    return line(cells)


def main():
    with open(sys.argv[1], encoding="utf-8") as results:
        rows = [json.loads(text) for text in results]
    last = {(one["side"], one["name"], one["kernel"]): one for one in rows}
    kernels = sorted({one["kernel"] for one in rows}, key=release)
    names = [(name, kernel) for name in SERVERS for kernel in kernels]
    print(HEAD)
    for side, text in SECTIONS.items():
        print(text.strip("\n") + "\n")
        print(line(COLUMNS))
        print(line(["---"] * len(COLUMNS)))
        for name in names:
            if (side, *name) in last:
                print(row(last.get(("plain", *name), {}), last[side, *name]))
        print()


main()
