# SPDX-License-Identifier: GPL-2.0-only
"""perf's output by symbol and by place: shares of spinning, contended locks, calls."""
import csv
import io
import re
from collections import defaultdict

SPIN = re.compile(r"queued_(?:spin|read|write)_lock_slowpath")
# Functions that only take a lock on behalf of their caller.
TAKER = re.compile(r"_lock_slowpath$|^_*(?:do_)?(?:raw_)?(?:spin|read|write)_|^osq_lock$|"
                   r"^_*(?:mutex|down|up|rwsem|rt_mutex|percpu_down)_")
IDLE = re.compile(r"safe_halt|default_idle|mwait_idle|intel_idle|acpi_idle|poll_idle|"
                  r"cpuidle_enter|cpu_idle_poll|acpi_safe_halt")


def by_symbol(report):
    """A perf report's shares of symbols that are not idle: (symbol, %) each."""
    return [(symbol, float(share)) for share, symbol in
            re.findall(r"^ +([\d.]+)% +\[.\] (\S+)", report.decode(), re.M)
            if not IDLE.search(symbol)]


def spin_share(report):
    """The share of spinning in a perf report by symbol, % of all that is not idle."""
    shares = by_symbol(report)
    busy = sum(share for _, share in shares)
    spin = sum(share for symbol, share in shares if SPIN.search(symbol))
    return round(100 * spin / busy, 3) if busy else None


STACKS = "stacks.txt"
# Functions of which perf knows no name; several in a row are one.
NAMELESS = re.compile(r"(?<![^;])(?:(?:0x[0-9a-f]+|-?\d+|\[unknown\])(?:;|$))+")


def folded(chains):
    """perf's report by program with folded chains, as the text that is kept: a chain in each
    line, "PROGRAM;OUTERMOST;...;INNERMOST SAMPLES", as flame graph tools read it."""
    counts, program = defaultdict(int), "unknown"
    for line in chains.decode(errors="replace").splitlines():
        heading = re.match(r"^ +[\d.]+% +(\S.*?) *$", line)
        chain = re.match(r"^(\d+) (\S.*)$", line)
        if heading:
            program = heading[1]
        elif chain:
            names = NAMELESS.sub("[unknown];", chain[2]).rstrip(";")
            counts[f"{program};{names}"] += int(chain[1])
    return "".join(f"{names} {count}\n" for names, count in sorted(counts.items())).encode()


def busy_chains(text):
    """{(program, outermost, ..., innermost): samples} of a folded text, without idle ones."""
    chains = {}
    for line in text.splitlines():
        names, _, count = line.rpartition(" ")
        chain = tuple(names.split(";"))
        if not IDLE.search(chain[-1]):
            chains[chain] = chains.get(chain, 0) + int(count)
    return chains


def place(stack):
    """(function, caller) that took a lock, from a chain that begins with the innermost function.

    The kernel does not name the lock; the function tells which one it is.
    """
    names = [name.partition("+")[0] for name in stack]
    outer = [name for name in names if not TAKER.search(name)]
    function, caller, *_ = [*outer, "unknown", "unknown"]
    return function, caller


def spin_places(report, spinning):
    """By (function, caller): spinning in % of all that is not idle.

    spinning: perf's report of the slow paths with folded chains, absolute shares.
    """
    busy = sum(share for _, share in by_symbol(report))
    places = defaultdict(float)
    for share, chain in re.findall(r"^([\d.]+)% (\S.*)$", spinning.decode(), re.M):
        places[place(chain.split(";"))] += 100 * float(share) / busy
    return places


EVENT = re.compile(r"^ *(\S.*?) +(\d+) \[(\d+)\] +([\d.]+): +(\w+:\w+): ?(.*)$")


def lock_places(script):
    """By (kind, function, caller) of contended locks: [how often, waited in us].

    script: what perf script prints of our probes and of lock:contention_*. Spin
    locks are taken from the probes alone, since the tracepoints report them only
    sometimes. A wait that was not over when recording ended counts, with no time.
    Locks for which perf itself waited are not counted.
    """
    places = defaultdict(lambda: [0, 0.0])
    waiting = defaultdict(list)
    for event in script.decode(errors="replace").split("\n\n"):
        # Ends have no stack: several of them may stand before a beginning.
        lines = [line for line in event.splitlines() if line.strip()]
        for number, line in enumerate(lines):
            found = EVENT.match(line)
            if not found or found[1] == "perf":
                continue
            _, thread, cpu, time, name, rest = found.groups()
            name = name.partition(":")[2]
            # Every CPU has an idle thread with the number 0.
            own = waiting[thread if thread != "0" else f"0 on {cpu}"]
            probed = not name.startswith("contention")
            if name.startswith(("begin", "contention_begin")):
                lock = re.search(r"0x\w+$|^0x\w+", rest)[0]
                flags = re.search(r"flags=([\w|]+)", rest)
                if (flags and flags[1] == "SPIN") or any(lock == open_[0] for open_ in own):
                    continue
                kind = "spin" if probed else flags[1].lower().replace("|", " ")
                stack = [frame.split()[1] for frame in lines[number + 1:]
                         if len(frame.split()) > 1]
                key = (kind, *place(stack))
                places[key][0] += 1
                own.append((lock, probed, key, float(time)))
            else:
                lock = None if probed else re.match(r"0x\w+", rest)[0]
                for open_ in reversed(own):
                    if open_[1] == probed and lock in (None, open_[0]):
                        places[open_[2]][1] += 1e6 * (float(time) - open_[3])
                        own.remove(open_)
                        break
    return places


def system_calls(text):
    """Returns the count of the first event that perf stat -x printed."""
    return int(re.search(r"^(\d+),.*sys_enter", text.decode(), re.M)[1])


def watched_files(seen):
    """The files of raw/ of a repetition under perf or with locks recorded: {name: bytes}."""
    def table(header, rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().encode()

    if "report" in seen:
        places = spin_places(seen["report"], seen["spinning"])
        return {"perf-report.txt": seen["report"],
                STACKS: folded(seen["stacks"]),
                "spinning.csv": table(["function", "caller", "busy_pct"],
                                      [[*key, round(share, 3)] for key, share in
                                       sorted(places.items(), key=lambda item: -item[1])])}
    places = lock_places(seen["locks"])
    return {"syscalls.txt": seen["syscalls"],
            "locks.csv": table(["kind", "function", "caller", "contended", "wait_us"],
                               [[*key, count, round(wait, 1)] for key, (count, wait) in
                                sorted(places.items(), key=lambda item: -item[1][0])])}


def watched_metrics(seen, requests):
    """Columns of a repetition under perf, or with locks recorded."""
    if "report" in seen:
        return {"spin_pct": spin_share(seen["report"])}
    counts, waits = zip(*[[0, 0.0], *lock_places(seen["locks"]).values()])
    each = max(requests, 1)
    return {"lock_contended_per_kreq": round(1000 * sum(counts) / each, 3),
            "lock_wait_us_per_req": round(sum(waits) / each, 3),
            "syscalls_per_req": round(system_calls(seen["syscalls"]) / each, 3)}
