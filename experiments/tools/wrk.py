# SPDX-License-Identifier: GPL-2.0-only
"""wrk: for so many seconds, a connection for each request, several threads."""
import re

from . import base

UNITS = {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}


def milliseconds(text):
    found = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    return round(float(found[1]) * UNITS[found[2]], 3)


class Wrk(base.Tool):
    name = package = "wrk"
    latency = "from sending the request"
    by_seconds = True
    units = "threads"

    def usual(self, cores, lab):
        return (cores + 1) // 2

    def commands(self, task):
        threads = min(task.processes, task.concurrency)
        return [["wrk", "-t", threads, "-c", task.concurrency, "-d", f"{task.amount}s",
                 "--latency", "-H", "Connection: close", task.url]]

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
