# SPDX-License-Identifier: GPL-2.0-only
"""wrk: for so many seconds, a connection for each request, several threads.

What it prints has no more than p99, of one wrk. So a script has it write its histogram, in us:
those of several load generators are added, and so are those of repetitions.
"""
import re
from collections import Counter

from . import ab, base

# wrk calls this once, at the end, so it costs requests nothing.
SCRIPT = """done = function(_, latency)
  local file = io.open("histogram", "w")
  for i = 1, #latency do
    local us, requests = latency(i)
    file:write(us, " ", requests, "\\n")
  end
  file:close()
end
"""
# The significant digits of a latency that are kept: enough, in a fraction of the lines.
DIGITS = 3

UNITS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}


def milliseconds(text):
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    return round(float(found[1]) * UNITS[found[2]], 3)


def histogram(load):
    """Counter {ms: requests}"""
    counts = Counter()
    for line in load.get("histogram", b"").decode().splitlines():
        us, requests = map(int, line.split())
        counts[us / 1000] += requests
    return counts


class Wrk(base.Tool):
    name = "wrk"
    packages = ("wrk",)
    latency = "from sending the request"
    by_seconds = True
    units = "threads"
    files = ("histogram",)

    def usual(self, cores, lab):
        return (cores + 1) // 2

    def commands(self, task):
        threads = min(task.processes, task.concurrency)
        return [["sh", "-c", 'printf %s "$0" > script.lua && exec wrk -s script.lua "$@"', SCRIPT,
                 "-t", threads, "-c", task.concurrency, "-d", f"{task.amount}s",
                 "--latency", "-H", "Connection: close", task.url]]

    def merged(self, loads):
        """Percentiles of all generators' histograms; wrk's own are these, for one generator."""
        metrics, reason = super().merged(loads)
        histograms = [histogram(load) for load in loads]
        if reason or not all(histograms):
            return metrics, reason
        return {**base.percentiles_of(sum(histograms, Counter())), **metrics}, None

    def kept_of(self, loads):
        """With the counts by latency of all generators, which figures are drawn from."""
        counts = Counter()
        for load in loads:
            for ms, requests in histogram(load).items():
                counts["total", float(f"{ms:.{DIGITS}g}")] += requests
        kept = super().kept_of([{name: content for name, content in load.items()
                                 if name != "histogram"} for load in loads])
        return {**kept, **({"latencies.csv": ab.counts_csv(counts)} if counts else {})}

    def parse(self, load):
        out = load["tool"].decode(errors="replace")
        summary = re.search(r"(\d+) requests in ([\d.]+)(\w+),", out)
        if not summary:
            return {}, f"wrk failed: {base.last_line(out, 'no output')}"
        latency = dict(re.findall(r"^ +(\d+)% +(\S+)$", out, re.M))
        # Thread Stats   Avg   Stdev   Max   +/- Stdev
        mean, longest = re.search(r"^ +Latency +(\S+) +\S+ +(\S+)", out, re.M).groups()
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)",
                           out)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        return {
            "requests": int(summary[1]),
            "failed": sum(map(int, errors.groups() if errors else []))
            + int(bad[1] if bad else 0),
            "time_s": round(float(summary[2]) * UNITS[summary[3]] / 1000, 3),
            "throughput_rps": float(re.search(r"^Requests/sec: +([\d.]+)", out, re.M)[1]),
            "latency_p50_ms": milliseconds(latency["50"]),
            "latency_p90_ms": milliseconds(latency["90"]),
            "latency_p99_ms": milliseconds(latency["99"]),
            "latency_max_ms": milliseconds(longest),
            "latency_mean_ms": milliseconds(mean),
        }, None

    def threads(self, _cell, load):
        return int(re.search(rb"(\d+) threads and", load["tool"])[1])


TOOL = Wrk()
