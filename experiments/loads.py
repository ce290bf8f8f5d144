# SPDX-License-Identifier: GPL-2.0-only
"""What the load tools print, as columns of samples.csv.

A parser takes the sections of load.sh and returns (metrics, why there are none or None).
"""
import csv
import io
import lzma
import re
import statistics
from collections import Counter

import proc

# What garbled output makes the parsers raise.
GARBLED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError,
           lzma.LZMAError)
UNITS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}


def percentile(values, percent):
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


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


def mean_of_percentiles(latency, total):
    """Mean, ms, from ab's percentiles 0 to 99, texts, or None where some are missing.

    total: of all requests in whole ms, sorted, which on a fast host are 0: good for the slowest
    hundredth only, of which the percentiles say nothing.
    """
    if not all(str(percent) in latency for percent in range(100)):
        return None
    edges = [float(latency[str(percent)]) for percent in range(100)]
    slowest = total[-max(len(total) // 100, 1):]
    return (sum((low + high) / 2 for low, high in zip(edges, edges[1:]))
            + max(sum(slowest) / len(slowest), edges[-1])) / 100


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
    connect, total = sorted(connect), sorted(total)
    return {
        "requests": int(number("Complete requests")),
        "failed": int(number("Failed requests") + number("Non-2xx responses")),
        "time_s": number("Time taken for tests"),
        "throughput_rps": number("Requests per second"),
        "latency_p50_ms": float(latency["50"]),
        "latency_p90_ms": float(latency["90"]),
        "latency_p99_ms": float(latency["99"]),
        "latency_p999_ms": percentile(total, 99.9),
        "latency_max_ms": total[-1],
        "latency_mean_ms": round(mean_of_percentiles(latency, total)
                                 or sum(total) / len(total), 3),
        "connect_p99_ms": percentile(connect, 99),
    }, None


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


TOOLS = {"ab": ab, "wrk": wrk, "redis-benchmark": redis_benchmark}


def parsed(tool, load):
    """(metrics of the tool's own output, why it is none or None)."""
    try:
        return TOOLS[tool](load)
    except GARBLED:
        lines = load.get("tool", b"").decode(errors="replace").strip().splitlines()
        return {}, (f"{tool} failed: what it printed is not complete"
                    + (f", and ends with: {lines[-1]}" if lines else ""))


def threads(cell, load):
    """As many CPUs as the tool can use at a time."""
    if cell["tool"] == "wrk":
        return int(re.search(rb"(\d+) threads and", load["tool"])[1])
    if cell["tool"] == "redis-benchmark":
        return min(int(cell["workers"]), len(proc.cpu_times(load["before"])))
    return 1
