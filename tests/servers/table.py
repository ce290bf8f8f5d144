#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Makes docs/servers.md of results of test_servers.py:

    tests/servers/table.py RESULTS > docs/servers.md
"""
import json
import sys

HEAD = """# Real servers under the library

<!-- Made by tests/servers/table.py of what tests/servers/check.py has printed. -->

Each server from Debian's packages, unmodified, in the lab, on Debian's kernels and {cores} emulated
cores, with four workers if it has workers: without the library (*plain*), and under `fsocketctl
run`. Clients on every core make one connection after the other. **Connections** is their number.
The next columns are the connections that were not answered, plain and with the library; then the
same while the server reloads, as its own manual says, from a second before until two seconds after.

- **Local**: the share that the worker on the core of arrival accepted, of all connections; and of
  {afterwards} more after the reload.
- **Narrowed**: threads and children that are not workers and may not use all cores, although they
  may without the library.
- **`fsocketctl run` says**: its verdict, without the remedies.

A server whose workers do not wait with epoll, or that has one acceptor only, runs as without the
library. Each row is of its last run, some of which were with older sources of these days; rows that
are *not run*, or missing, have not been measured. `make test-servers` runs all of them, with 10,000
connections each, and writes this page again.
"""
COLUMNS = ["server", "kernel", "connections", "failed, plain", "failed", "local",
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


def failed(part):
    """How many failed, and what the server did to them."""
    if not part:
        return "–"
    why = ", ".join(part["errors"])
    return f"**{part['failed']}** of {part['connections']} ({why})" if part["failed"] else \
        f"0 of {part['connections']}"


def line(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def verdict(ours):
    """The verdict comes after 5 s, which is too early for some servers under an emulator."""
    late = f" (it answered after {ours['seconds']} s)" if ours["seconds"] > 5 else ""
    return ours["verdict"].split(";")[0] + late or "–"


def narrowed(plain, ours):
    return ", ".join(sorted(set(ours["narrowed"]) - set(plain.get("narrowed", [])))) or "none"


def row(plain, ours):
    cells = [ours["name"], ours["kernel"].split("-")[0], ours["load"]["connections"],
             plain["load"]["failed"] if plain else "not run", ours["load"]["failed"],
             ours["local"], failed(plain.get("reload")), failed(ours.get("reload")),
             ours.get("local_afterwards", "–"),
             narrowed(plain, ours), verdict(ours)]
    return line(cells)


def main():
    with open(sys.argv[1], encoding="utf-8") as results:
        rows = [json.loads(text) for text in results]
    last = {(one["side"], one["name"], one["kernel"]): one for one in rows}
    names = dict.fromkeys((one["name"], kernel) for one in rows for kernel in
                          sorted({one["kernel"] for one in rows}))
    cores = rows[-1]["cores"]
    print(HEAD.format(cores=cores, afterwards=25 * cores))
    for side, text in SECTIONS.items():
        print(text.strip("\n") + "\n")
        print(line(COLUMNS))
        print(line(["---"] * len(COLUMNS)))
        for name in names:
            if (side, *name) in last:
                print(row(last.get(("plain", *name), {}), last[side, *name]))
        print()


main()
