# SPDX-License-Identifier: GPL-2.0-only
"""From what the tools and the kernel print to the columns of samples.csv.

Everything here takes text and returns numbers; nothing touches a host. Columns are
described in contract.py.
"""
import csv
import io
import lzma
import re

SPIN = re.compile(r"queued_(?:spin|read|write)_lock_slowpath")
IDLE = re.compile(r"safe_halt|default_idle|mwait_idle|intel_idle|acpi_idle|poll_idle|"
                  r"cpuidle_enter|cpu_idle_poll|acpi_safe_halt")

# A load generator is the bottleneck above, and a host not saturated below, %. (An emulated
# guest leaves up to a tenth of the machine idle, however many requests wait: docs/lab.md.)
LOADGEN_BUSY_MAX = 95
SATURATED_MIN = 80
# A virtual machine whose hypervisor gives more of its time, %, to others is not measured.
STOLEN_MAX = 5


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
    connect, total = [], 0
    for row in rows:
        connect.append(int(row["ctime"]))
        total = max(total, int(row["ttime"]))
    connect.sort()
    return {
        "requests": int(number("Complete requests")),
        "failed": int(number("Failed requests") + number("Non-2xx responses")),
        "time_s": number("Time taken for tests"),
        "throughput_rps": number("Requests per second"),
        "latency_p50_ms": float(latency["50"]),
        "latency_p90_ms": float(latency["90"]),
        "latency_p99_ms": float(latency["99"]),
        "latency_max_ms": total,
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
    longest = re.search(r"^ +Latency +\S+ +\S+ +(\S+)", out, re.M)[1]
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
    }, None


def spin_share(report):
    """Of a perf report by symbol: spinning in % of all that is not idle."""
    spin = busy = 0.0
    for share, symbol in re.findall(r"^ +([\d.]+)% +\[.\] (\S+)", report.decode(), re.M):
        if IDLE.search(symbol):
            continue
        busy += float(share)
        if SPIN.search(symbol):
            spin += float(share)
    return round(100 * spin / busy, 3) if busy else None


def server_state(readback):
    """The lines that server.sh start prints, as nested names."""
    state = {"workers": {}, "parameters": {}, "settings": {}}
    for line in readback.decode().splitlines():
        words = line.split()
        match words:
            case ["worker", process, cores]:
                state["workers"][process] = cores
            case ["parameter", name, value]:
                state["parameters"][name] = value
            case ["preloaded", number]:
                state["preloaded"] = int(number)
            case _:
                state["settings"][" ".join(words[:-1])] = words[-1]
    return state


def state_mismatch(state, setup, workers, settings):
    """What of the server's state is not as the cell says, or None."""
    cores = list(state["workers"].values())
    if sorted(cores, key=lambda core: (len(core), core)) != [str(n) for n in range(workers)]:
        return f"workers run on cores {' '.join(cores)}, not one on each of 0-{workers - 1}"
    if state["preloaded"] != (workers if setup.get("preload") else 0):
        return f"{state['preloaded']} of {workers} workers have libfsocket.so loaded"
    for name, value in setup.get("parameters", {}).items():
        if state["parameters"].get(name) != str(value):
            return f"parameter {name} is {state['parameters'].get(name)}, not {value}"
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            return f"{name} is {state['settings'].get(name)}, and was {value} before"
    return None


def sample(cell, plan, load, before, after, report, lab):
    """Metrics of a repetition, and why it is invalid or None.

    load: sections of load.sh; before, after: sections of server.sh counters;
    report: perf's, or None when the repetition was timed; lab: whether the load
    generator shares its machine with the server.
    """
    metrics, reason = {"ab": ab, "wrk": wrk}[cell["tool"]](load)
    if reason:
        return metrics, reason
    requests = metrics["requests"]

    real, user, system = map(float, load["time"].split())
    threads = 1 if cell["tool"] == "ab" else int(
        re.search(rb"(\d+) threads and", load["tool"])[1])
    metrics["loadgen_busy_pct"] = round(100 * (user + system) / (real * threads), 1)

    shares = busy_shares(before["/proc/stat"], after["/proc/stat"])
    used = [shares[cpu] for cpu in range(int(cell["workers"])) if shares[cpu] is not None]
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
    metrics["syn_retransmits"] = passed(client, "TcpExtTCPSynRetrans")
    metrics["retransmits"] = passed(server, "TcpRetransSegs") + passed(client, "TcpRetransSegs")

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
        saturation = sum(shares) / len(shares)
    if report is not None:
        metrics["spin_pct"] = spin_share(report)
        for name in ("time_s", "throughput_rps", "loadgen_busy_pct", "context_switches_per_req",
                     *(name for name in metrics
                       if name.startswith(("latency", "connect", "server_busy")))):
            metrics.pop(name, None)

    stolen = max(stolen_share(before["/proc/stat"], after["/proc/stat"]),
                 stolen_share(load["before"], load["after"]))
    warnings = after["kernel warnings"][len(before["kernel warnings"]):].decode().strip()
    if metrics["failed"]:
        reason = f"{metrics['failed']} requests failed"
    elif not requests:
        reason = "no request was answered"
    elif metrics["syn_retransmits"]:
        reason = f"{metrics['syn_retransmits']} connections waited for a second SYN"
    elif warnings:
        reason = f"the kernel warned: {warnings.splitlines()[0]}"
    elif stolen > STOLEN_MAX:
        reason = f"other virtual machines had {stolen:.0f} % of a host's time"
    elif metrics.get("loadgen_busy_pct", 0) > LOADGEN_BUSY_MAX:
        reason = (f"the load generator was the bottleneck: {cell['tool']} used "
                  f"{metrics['loadgen_busy_pct']} % of its CPU time")
    elif plan["saturates"] and saturation < SATURATED_MIN and report is None:
        reason = f"not saturated: only {saturation:.0f} % busy"
    return metrics, reason
