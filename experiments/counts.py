# SPDX-License-Identifier: GPL-2.0-only
"""Repetitions that count, c1, c2...: instructions and cache-line transfers per request.

In the lab the emulator counts (counting/); where the lab has KVM, in a boot of its own (boots.py).
On other hosts the processor counts, by perf stat on the server. Both are switched on after the
warm-up, so that timed repetitions cost nothing.
"""
import csv
import io
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import contract

LAB = contract.ROOT / "playbooks/roles/lab/files/lab.sh"
ACCELERATOR = contract.ROOT / ".lab/accel"
READ = contract.ROOT / "counting/read"
# Instructions of a core after which it lets others run: see docs/counting.md.
QUANTUM = 2000
# Requests before counting begins, under the emulator's instruments, and while it counts,
# unless the profile says otherwise.
WARM, REQUESTS = 400, 1500
# Seconds of the window without load.
IDLE_S = 1
# While it counts, the lab serves 20 to 570 requests a second (all committed runs), as the machine
# has other work or not, and some 2,000 else. Workers that are never late at that speed are then
# late by the clock, and others take their connections. So the times after which the module and the
# library do that are multiplied by this, as much as 40 requests a second ask for.
SLOWER = 50
# By default, in milliseconds, LATE_MS of library/route.h; and the highest that both allow.
LIBRARY_LATE_MS, MOST_LATE_MS = 10, 10000
# Columns of samples.csv that totals.csv has under the same name.
TOTALS = ("kernel_instructions_per_req", "user_instructions_per_req", "line_transfers_per_req",
          "background_transfers_per_req", "lines_moved_per_req")
# The column that has all transfers of the window without load.
MOVED = ("line_transfers_per_req", "background_transfers_per_req")
# Columns of lines.csv that come from the server's kernel.
NAMES = ("kind", "what", "member", "cpu")
# Transfers per request below which a line whose object is known has no address in lines.csv:
# thousands of sockets are such lines, and their addresses would be most of a packed run.
RARE = 0.05


class CountError(Exception):
    """The reason for which nothing was counted, in one sentence."""


def command(*argv, given=None):
    """Standard output of a command of ours on this machine; given: its standard input."""
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False,
                          timeout=300, input=given)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CountError(f"{Path(argv[0]).name} {argv[1]}: {lines[-1] if lines else 'failed'}")
    return done.stdout


def totals(text):
    """totals.csv by name."""
    return {row["name"]: float(row["value"]) for row in csv.DictReader(io.StringIO(text))}


def foreground(text):
    """Rows of lines.csv that are no background."""
    return [row for row in csv.DictReader(io.StringIO(text)) if row["group"] != "background"]


def by_line(lines, names):
    """Rows with contract.LINES as columns. names: as named() returns them."""
    rows = []
    for line in lines:
        name = [names.get(line["address"], {}).get(column, "") for column in NAMES]
        rare = name[1] and float(line["transfers"]) < RARE
        rows.append(["" if rare else line["line"], *name, line["moved_by"], line["transfers"]])
    return rows


def named(lines):
    """{address: row}: the objects at the lines' addresses, from the server's kernel.

    Lines without a name count as those with one, so a kernel that does not answer is no
    failure.
    """
    try:
        found = command(LAB, "count", "names",
                        given="".join(f"{line['address']}\n" for line in lines))
    except (CountError, subprocess.TimeoutExpired) as error:
        print(f"what the lines are is not known: {error}", file=sys.stderr)
        return {}
    return {row["address"]: row for row in csv.DictReader(io.StringIO(found))}


def table(header, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def slowed(words, slower):
    """The words of server.sh start that differ while a server is counted, which then is so many
    times slower. words: all of them."""
    late = {"parameter:steal_after_ms": words.get("parameter:steal_after_ms")}
    if words["preload"] and words["library"] != "module":
        name = "environment:FSOCKET_STEAL_AFTER_MS"
        late[name] = words.get(name, LIBRARY_LATE_MS)
    return {name: min(int(value) * slower, MOST_LATE_MS)
            for name, value in late.items() if value and slower != 1}


class Emulator:
    """Counts by the lab's emulator."""

    source = f"emulator, quantum {QUANTUM}, late after {SLOWER} times as long"
    slower = SLOWER

    def __init__(self, server):
        self.server = server
        self.symbols = None

    def start(self):
        # Read the symbols once, before counting makes the server slow: run.py loads the module
        # when it begins. The program that names lines is installed by a first call for nothing.
        if not self.symbols:
            self.symbols = self.server.run("symbols")
            named([])
        command(LAB, "count", "on", QUANTUM)

    def zero(self):
        """Counts from here on, and forgets the transfers of the warm-up."""
        command(LAB, "count", "reset")

    def read(self, folder, requests):
        """Names and texts of the tables of folder's dump."""
        command(READ, folder / "dump", folder / "kallsyms", requests, folder)
        return {name: (folder / f"{name}.csv").read_text(encoding="utf-8")
                for name in ("totals", "lines", "callers")}

    def idle(self, folder):
        """Transfers per second without load."""
        self.zero()
        time.sleep(IDLE_S)
        command(LAB, "count", "dump", folder / "dump")
        found = totals(self.read(folder, 1)["totals"])
        return round(sum(found[name] for name in MOVED) / max(found["seconds"], IDLE_S), 1)

    def stop(self, requests):
        """(metrics, {file: content}) of so many requests since zero()."""
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            command(LAB, "count", "dump", folder / "dump")
            (folder / "kallsyms").write_bytes(self.symbols)
            command("make", "-s", "-C", READ.parent, READ.name)
            text = self.read(folder, requests)
            idle = self.idle(folder)
            command(LAB, "count", "off")
            # Without counting, the server is fast again.
            lines = foreground(text["lines"])
            names = named(lines)
        found = totals(text["totals"])
        if found["lost"]:
            raise CountError("the plugin's tables were full: count fewer requests")
        return ({**{name: found[name] for name in TOTALS}, "idle_transfers_per_s": idle},
                {"totals.csv": text["totals"].encode(), "callers.csv": text["callers"].encode(),
                 "lines.csv": table(contract.LINES, by_line(lines, names))})

    def abandon(self):
        """Switches counting off after a failure, since it would slow the next repetition."""
        try:
            command(LAB, "count", "off")
        except CountError:
            pass


class Processor:
    """Counts by the server's processor. A processor without counters is an error that says so."""

    source = "pmu"
    slower = 1

    def __init__(self, server):
        self.server = server

    def start(self):
        self.server.run("counts-probe")

    def zero(self):
        self.server.run("counts-start")

    def stop(self, requests):
        text = self.server.run("counts-stop")
        return pmu(text.decode(), requests), {"perf-stat.csv": text}

    def abandon(self):
        self.server.run("counts-stop")


EVENTS = {"instructions:k": "kernel_instructions_per_req",
          "instructions:u": "user_instructions_per_req",
          "cycles": "cycles_per_req", "cache-misses": "cache_misses_per_req"}
# Events that server.sh chooses by the processor: loads of lines that another core had changed.
HITM = re.compile(r"mem_load_\w+\.(xsnp_fwd|xsnp_hitm|remote_hitm)")


def pmu(text, requests):
    """Columns of what perf stat -x, prints; CountError where the processor counts nothing."""
    found = dict(reversed(pair) for pair in re.findall(r"^(\d+),[^,]*,([\w:.-]+),", text, re.M))
    metrics = {column: round(int(found[event]) / max(requests, 1), 1)
               for event, column in EVENTS.items() if event in found}
    if "cycles_per_req" not in metrics:
        raise CountError("the server's processor has no counters that perf stat could read: "
                         "run on hardware, or in the lab")
    hitm = [int(value) for event, value in found.items() if HITM.fullmatch(event)]
    return {**metrics, **({"hitm_loads_per_req": round(sum(hitm) / max(requests, 1), 1)}
                          if hitm else {})}


def accelerator():
    """The accelerator of the lab's server: tcg, which emulates, or kvm."""
    return ACCELERATOR.read_text(encoding="utf-8").strip()


def emulator():
    """The version of the lab's emulator and the options that it runs with, in which the checkout's
    folder is "."."""
    pid = ACCELERATOR.with_name("pid").read_text(encoding="utf-8").strip()
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    version = subprocess.run([words[0], "--version"], capture_output=True, text=True,
                             check=True).stdout.splitlines()[0]
    return f"{version}: {shlex.join(words)}".replace(str(contract.ROOT), ".")


def counter(lab, server):
    """The counter to use."""
    return (Emulator if lab else Processor)(server)
