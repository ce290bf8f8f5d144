# SPDX-License-Identifier: GPL-2.0-only
"""From what the tools and the kernel print to the columns of samples.csv.

Everything here takes text and returns numbers; nothing touches a host. Columns are
described in contract.py.
"""
import csv
import io
import lzma
import re
import statistics
from collections import Counter, defaultdict

SPIN = re.compile(r"queued_(?:spin|read|write)_lock_slowpath")
# Functions that only take a lock for somebody else.
TAKER = re.compile(r"_lock_slowpath$|^_*(?:do_)?(?:raw_)?(?:spin|read|write)_|^osq_lock$|"
                   r"^_*(?:mutex|down|up|rwsem|rt_mutex|percpu_down)_")
IDLE = re.compile(r"safe_halt|default_idle|mwait_idle|intel_idle|acpi_idle|poll_idle|"
                  r"cpuidle_enter|cpu_idle_poll|acpi_safe_halt")

# A load generator is the bottleneck above, and a host not saturated below, %. (An emulated
# guest leaves up to a tenth of the machine idle, however many requests wait: docs/lab.md.)
LOADGEN_BUSY_MAX = 95
SATURATED_MIN = 80
# A virtual machine whose hypervisor gives more of its time, %, to others is not measured.
STOLEN_MAX = 5
# SYNs sent again, as a share of requests: above, a repetition is valid but degraded. (It
# is not left out: that would flatter the setups that lose more of them.)
SYN_TOLERATED = 0.001
# The server has accepted as many connections as there were requests, within this share.
ACCEPTS_TOLERATED = 0.05
# Connections under way on average by Little's law, as a share of the concurrency asked for.
LITTLE_TOLERATED = 0.1
TICK_US = 10000
# What garbled output makes the parsers raise.
GARBLED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError,
           lzma.LZMAError)


def sections(output):
    """Splits what a script printed at its lines "==> name <=="; values are bytes."""
    parts = re.split(rb"^==> (.*) <==\n", output, flags=re.M)
    return {name.decode(): text for name, text in zip(parts[1::2], parts[2::2])}


def snmp(text):
    """/proc/net/snmp and /proc/net/netstat: a line of names, a line of values."""
    counters = {}
    lines = text.decode().splitlines()
    for names, values in zip(lines, lines[1:]):
        prefix, _, rest = names.partition(": ")
        other, _, numbers = values.partition(": ")
        if prefix == other and not rest[:1].isdigit() and numbers[:1].lstrip("-").isdigit():
            counters.update({f"{prefix}{name}": int(number)
                             for name, number in zip(rest.split(), numbers.split())})
    return counters


def cpu_times(stat):
    """Per CPU of a /proc/stat: (busy, stolen, all) in ticks."""
    times = {}
    for cpu, values in re.findall(r"^cpu(\d+) (.*)$", stat.decode(), re.M):
        # guest and guest_nice are within user and nice
        ticks = [int(value) for value in values.split()[:8]]
        times[int(cpu)] = (sum(ticks) - ticks[3] - ticks[4], ticks[7], sum(ticks))
    return times


def busy_shares(before, after):
    """Per CPU, %; None where no tick has passed."""
    before, after = cpu_times(before), cpu_times(after)
    shares = {}
    for cpu, (busy, _, total) in after.items():
        passed = total - before[cpu][2]
        shares[cpu] = 100 * (busy - before[cpu][0]) / passed if passed else None
    return shares


def busy_ticks(before, after):
    """Of all CPUs together."""
    before, after = cpu_times(before), cpu_times(after)
    return sum(busy - before[cpu][0] for cpu, (busy, _, _) in after.items())


def stolen_share(before, after):
    """Of all CPUs, %: what the hypervisor has kept from a virtual machine."""
    before, after = [[sum(part) for part in zip(*cpu_times(stat).values())]
                     for stat in (before, after)]
    return 100 * (after[1] - before[1]) / max(after[2] - before[2], 1)


def table_sums(text):
    """Column sums of a statistics file with a header row."""
    header, *rows = [line.split() for line in text.decode().splitlines() if line.strip()]
    return {name: sum(int(row[i]) for row in rows) for i, name in enumerate(header)}


def percentile(values, percent):
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def new_warnings(before, after):
    """Lines of a kernel log that are younger than all before, by their time stamps; text.

    The log is a ring: how long it was before does not tell where new lines begin.
    """
    def stamped(log):
        return [(float(stamp), line) for line, stamp in
                re.findall(r"^(\[ *([\d.]+)\].*)$", log.decode(errors="replace"), re.M)]

    old = {line for _, line in stamped(before)}
    since = max((stamp for stamp, _ in stamped(before)), default=-1.0)
    return [line for stamp, line in stamped(after) if stamp >= since and line not in old]


def latency_counts(requests):
    """CSV of the file that ab -g wrote, compressed: how many requests had which time.

    Columns: of which time, connect or total; ms; requests. Sorted, so that it is all that
    is in the two columns that are used, in a hundredth of the space.
    """
    counts = Counter()
    for row in csv.DictReader(io.StringIO(lzma.decompress(requests).decode()), delimiter="\t"):
        counts["connect", int(row["ctime"])] += 1
        counts["total", int(row["ttime"])] += 1
    return "".join(["time,ms,requests\n", *(f"{name},{ms},{number}\n" for (name, ms), number
                                            in sorted(counts.items()))]).encode()


def ab(load):
    out = load["tool"].decode(errors="replace")
    if not re.search(r"^Requests per second:", out, re.M):
        return {}, f"ab failed: {(out.strip().splitlines() or ['no output'])[-1]}"

    def number(label):
        found = re.search(rf"^{label}: +([\d.]+)", out, re.M)
        return float(found[1]) if found else 0

    latency = {row[0]: row[1] for row in csv.reader(io.StringIO(load["percentiles"].decode()))}
    rows = csv.DictReader(io.StringIO(lzma.decompress(load["requests"]).decode()),
                          delimiter="\t")
    connect, total = zip(*((int(row["ctime"]), int(row["ttime"])) for row in rows))
    connect = sorted(connect)
    return {
        "requests": int(number("Complete requests")),
        "failed": int(number("Failed requests") + number("Non-2xx responses")),
        "time_s": number("Time taken for tests"),
        "throughput_rps": number("Requests per second"),
        "latency_p50_ms": float(latency["50"]),
        "latency_p90_ms": float(latency["90"]),
        "latency_p99_ms": float(latency["99"]),
        "latency_max_ms": max(total),
        "latency_mean_ms": round(sum(total) / len(total), 3),
        "connect_p99_ms": percentile(connect, 99),
    }, None


UNITS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}


def wrk(load):
    out = load["tool"].decode(errors="replace")
    summary = re.search(r"(\d+) requests in ([\d.]+)(\w+),", out)
    if not summary:
        return {}, f"wrk failed: {(out.strip().splitlines() or ['no output'])[-1]}"

    def milliseconds(text):
        found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
        return round(float(found[1]) * UNITS[found[2]], 3)

    latency = dict(re.findall(r"^ +(\d+)% +(\S+)$", out, re.M))
    # Thread Stats   Avg   Stdev   Max   +/- Stdev
    mean, longest = re.search(r"^ +Latency +(\S+) +\S+ +(\S+)", out, re.M).groups()
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)",
                       out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "requests": int(summary[1]),
        "failed": sum(map(int, errors.groups() if errors else [])) + int(bad[1] if bad else 0),
        "time_s": round(float(summary[2]) * UNITS[summary[3]] / 1000, 3),
        "throughput_rps": float(re.search(r"^Requests/sec: +([\d.]+)", out, re.M)[1]),
        "latency_p50_ms": milliseconds(latency["50"]),
        "latency_p90_ms": milliseconds(latency["90"]),
        "latency_p99_ms": milliseconds(latency["99"]),
        "latency_max_ms": milliseconds(longest),
        "latency_mean_ms": milliseconds(mean),
    }, None


def redis_benchmark(load):
    """Each instance prints a line of its own; of their latencies, the median."""
    out = load["tool"].decode(errors="replace")
    rows = [row for row in csv.DictReader(io.StringIO(out), restval="") if row["test"] == "GET"]
    bad = [line for line in out.splitlines() if not line.startswith('"')]
    if not rows or bad:
        return {}, f"redis-benchmark failed: {bad[-1] if bad else 'no output'}"

    def median(column):
        return round(statistics.median(float(row[column]) for row in rows), 3)

    requests, seconds = int(load["number"]), float(load["time"].split()[0])
    return {"requests": requests, "failed": 0, "time_s": seconds,
            "throughput_rps": round(requests / seconds, 2),
            "latency_p50_ms": median("p50_latency_ms"),
            "latency_p99_ms": median("p99_latency_ms"),
            "latency_max_ms": max(float(row["max_latency_ms"]) for row in rows),
            "latency_mean_ms": median("avg_latency_ms")}, None


def by_symbol(report):
    """A perf report's shares of symbols that are not idle: (symbol, %) each."""
    return [(symbol, float(share)) for share, symbol in
            re.findall(r"^ +([\d.]+)% +\[.\] (\S+)", report.decode(), re.M)
            if not IDLE.search(symbol)]


def spin_share(report):
    """Of a perf report by symbol: spinning in % of all that is not idle."""
    shares = by_symbol(report)
    busy = sum(share for _, share in shares)
    spin = sum(share for symbol, share in shares if SPIN.search(symbol))
    return round(100 * spin / busy, 3) if busy else None


def place(stack):
    """Where a lock was taken, from the innermost function outwards: (function, caller).

    Which lock it is the kernel does not tell; the function does.
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

    script: what perf script prints of our probes and of lock:contention_*. The
    latter tells of spin locks only sometimes, and these the probes see: left out.
    A wait that was not over when recording ended counts, with no time. What perf
    itself waited for is not counted.
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
            # Every CPU has an idle thread of the number 0.
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


def watched_files(seen):
    """What is kept in raw/ of a repetition under perf or with locks recorded: {name: bytes}."""
    def table(header, rows):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().encode()

    if "report" in seen:
        places = spin_places(seen["report"], seen["spinning"])
        return {"perf-report.txt": seen["report"],
                "spinning.csv": table(["function", "caller", "busy_pct"],
                                      [[*key, round(share, 3)] for key, share in
                                       sorted(places.items(), key=lambda item: -item[1])])}
    places = lock_places(seen["locks"])
    return {"syscalls.txt": seen["syscalls"],
            "locks.csv": table(["kind", "function", "caller", "contended", "wait_us"],
                               [[*key, count, round(wait, 1)] for key, (count, wait) in
                                sorted(places.items(), key=lambda item: -item[1][0])])}


def system_calls(text):
    """perf stat -x: its first event's count."""
    return int(re.search(r"^(\d+),.*sys_enter", text.decode(), re.M)[1])


def server_state(readback):
    """The lines that server.sh start prints, as nested names."""
    state = {"workers": {}, "parameters": {}, "chosen": {}, "settings": {}}
    for line in readback.decode().splitlines():
        words = line.split()
        match words:
            case ["worker", process, cores]:
                state["workers"][process] = cores
            case ["parameter", name, value]:
                state["parameters"][name] = value
            case ["chosen", name, value]:
                state["chosen"][name] = value
            case ["preloaded", number]:
                state["preloaded"] = int(number)
            case _:
                state["settings"][" ".join(words[:-1])] = words[-1]
    return state


def state_mismatch(state, wanted, settings):
    """What of the server's state is not as run.py wanted it, or None."""
    workers = wanted["workers"]
    cores = list(state["workers"].values())
    if sorted(cores, key=lambda core: (len(core), core)) != [str(n) for n in range(workers)]:
        return f"workers run on cores {' '.join(cores)}, not one on each of 0-{workers - 1}"
    if state["preloaded"] != (workers if wanted["preload"] else 0):
        return f"{state['preloaded']} of {workers} workers have libfsocket.so loaded"
    for word, value in wanted.items():
        kind, _, name = word.rpartition(":")
        if kind == "parameter":
            found = state["parameters"].get(name)
        elif kind == "sysctl" or word == "rfs":
            found = state["chosen"].get(word)
        else:
            continue
        if found != str(value):
            return f"{kind} {name} is {found}, not {value}".lstrip()
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            return f"{name} is {state['settings'].get(name)}, and was {value} before"
    return None


def parsed(tool, load):
    """(metrics of the tool's own output, why it is none or None)."""
    parse = {"ab": ab, "wrk": wrk, "redis-benchmark": redis_benchmark}[tool]
    try:
        return parse(load)
    except GARBLED:
        lines = load.get("tool", b"").decode(errors="replace").strip().splitlines()
        return {}, (f"{tool} failed: what it printed is not complete"
                    + (f", and ends with: {lines[-1]}" if lines else ""))


def degraded_by_syns(metrics):
    syns, requests = metrics["syn_retransmits"], max(metrics["requests"], 1)
    if syns > SYN_TOLERATED * requests:
        return (f"{100 * syns / requests:.2f} % of the connections waited for a second SYN "
                f"({100 * SYN_TOLERATED:g} % are tolerated)")
    return None


def degraded_by_little(metrics, concurrency):
    """Too few under way: the load ended before it had built up, or the tool could not keep
    it; too many: what the tool calls throughput and latency does not fit together."""
    held = metrics.get("held_connections")
    if held is not None and abs(held - concurrency) > max(LITTLE_TOLERATED * concurrency, 1):
        return f"by Little's law {held:.0f} connections were under way, not {concurrency}"
    return None


def degraded_by_accepts(requests, accepts, concurrency):
    """As many connections as are open at a time may be under way when the tool ends."""
    if abs(accepts - requests) > ACCEPTS_TOLERATED * requests + concurrency:
        return f"the tool counts {requests} requests, the server {accepts} connections"
    return None


def sample(cell, plan, load, before, after, seen, lab):
    """Metrics of a repetition, and why it is invalid or None.

    load: sections of load.sh; before, after: sections of server.sh counters;
    seen: sections of what perf printed, or None when the repetition was timed; lab:
    whether the load generator shares its machine with the server.
    """
    metrics, reason = parsed(cell["tool"], load)
    if reason:
        return metrics, reason
    requests = metrics["requests"]
    if "latency_mean_ms" in metrics:
        metrics["held_connections"] = round(
            metrics["throughput_rps"] * metrics["latency_mean_ms"] / 1000, 1)

    real, user, system = map(float, load["time"].split())
    if cell["tool"] == "wrk":
        threads = int(re.search(rb"(\d+) threads and", load["tool"])[1])
    elif cell["tool"] == "redis-benchmark":
        threads = min(int(cell["workers"]), len(cpu_times(load["before"])))
    else:
        threads = 1
    metrics["loadgen_busy_pct"] = round(100 * (user + system) / (real * threads), 1)

    shares = busy_shares(before["/proc/stat"], after["/proc/stat"])
    used = [shares[cpu] for cpu in range(int(cell["workers"])) if shares[cpu] is not None]
    metrics["server_cpu_us_per_req"] = round(
        TICK_US * busy_ticks(before["/proc/stat"], after["/proc/stat"]) / max(requests, 1), 1)
    metrics["server_busy_pct"] = round(sum(used) / len(used), 1)
    metrics["server_busy_min_pct"] = round(min(used), 1)
    metrics["server_busy_max_pct"] = round(max(used), 1)

    switches = [int(re.search(rb"^ctxt (\d+)", part["/proc/stat"], re.M)[1])
                for part in (before, after)]
    metrics["context_switches_per_req"] = round((switches[1] - switches[0]) / max(requests, 1), 3)

    server = [snmp(part["/proc/net/snmp"] + part["/proc/net/netstat"])
              for part in (before, after)]
    client = [snmp(load["before"]), snmp(load["after"])]

    def passed(pair, name):
        return pair[1][name] - pair[0][name]

    metrics["listen_overflows"] = passed(server, "TcpExtListenOverflows")
    # The server sends SYNs too, as a proxy.
    metrics["syn_retransmits"] = (passed(client, "TcpExtTCPSynRetrans")
                                  + passed(server, "TcpExtTCPSynRetrans"))
    metrics["retransmits"] = passed(server, "TcpRetransSegs") + passed(client, "TcpRetransSegs")
    if "TcpExtTCPTimeWaitOverflow" in server[1]:
        metrics["time_wait_overflows_per_req"] = round(
            passed(server, "TcpExtTCPTimeWaitOverflow") / max(requests, 1), 4)
    faults = [degraded_by_syns(metrics)]
    if cell["tool"] == "ab":    # others leave opening the connection out of their latency
        faults.append(degraded_by_little(metrics, int(cell["concurrency"])))
    if "TcpPassiveOpens" in server[1] and cell["tool"] != "redis-benchmark":
        faults.append(degraded_by_accepts(requests, passed(server, "TcpPassiveOpens"),
                                          int(cell["concurrency"])))
    if any(faults):
        metrics["degraded"] = "; ".join(filter(None, faults))

    if plan["setups"][cell["setup"]].get("preload"):
        counts = [table_sums(part["/proc/net/fastsocket"]) for part in (before, after)]
        local = passed(counts, "accept_local")
        accepts = local + passed(counts, "accept_global") + passed(counts, "accept_remote")
        if accepts:
            metrics["local_accept_pct"] = round(100 * local / accepts, 3)

    saturation = metrics["server_busy_pct"]
    if lab:
        shares = [share for share in busy_shares(load["before"], load["after"]).values()
                  if share is not None]
        # The guest reports less than it is busy, never more.
        saturation = max(saturation, sum(shares) / len(shares))
    if seen is not None:
        if "report" in seen:
            metrics["spin_pct"] = spin_share(seen["report"])
        else:
            counts, waits = zip(*[[0, 0.0], *lock_places(seen["locks"]).values()])
            metrics["lock_contended_per_kreq"] = round(1000 * sum(counts) / max(requests, 1), 3)
            metrics["lock_wait_us_per_req"] = round(sum(waits) / max(requests, 1), 3)
            metrics["syscalls_per_req"] = round(
                system_calls(seen["syscalls"]) / max(requests, 1), 3)
        for name in ("time_s", "throughput_rps", "loadgen_busy_pct", "context_switches_per_req",
                     "server_cpu_us_per_req", "held_connections",
                     *(name for name in metrics
                       if name.startswith(("latency", "connect", "server_busy")))):
            metrics.pop(name, None)

    stolen = max(stolen_share(before["/proc/stat"], after["/proc/stat"]),
                 stolen_share(load["before"], load["after"]))
    warnings = new_warnings(before["kernel warnings"], after["kernel warnings"])
    if metrics["failed"]:
        reason = f"{metrics['failed']} requests failed"
    elif not requests:
        reason = "no request was answered"
    elif warnings:
        reason = f"the kernel warned: {warnings[0]}"
    elif stolen > STOLEN_MAX:
        reason = f"other virtual machines had {stolen:.0f} % of a host's time"
    elif metrics.get("loadgen_busy_pct", 0) > LOADGEN_BUSY_MAX:
        reason = (f"the load generator was the bottleneck: {cell['tool']} used "
                  f"{metrics['loadgen_busy_pct']} % of its CPU time")
    elif plan["saturates"] and saturation < SATURATED_MIN and seen is None:
        reason = f"not saturated: only {saturation:.0f} % busy"
    return metrics, reason
