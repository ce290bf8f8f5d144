# SPDX-License-Identifier: GPL-2.0-only
"""httperf is an open loop: it opens a given number of connections a second, one for each request,
however long the server takes. So it measures requests that wait while the server stalls; tools
that wait for an answer before the next request leave them out (coordinated omission).

It keeps its rate by opening late connections at once, and prints how many were late. Latency is
from opening the connection, a second SYN included, as a histogram of whole ms. A process has
1,020 connections at most: a server that falls behind needs more processes. httperf never sleeps,
so it is judged by how late it was and not by its CPU time.
"""
import re
from collections import Counter

from . import ab, base

# It may open a connection LATE_MAX s late; one that lasts longer than TIMEOUT s has failed.
LATE_MAX = 0.2
TIMEOUT = 20
# ab warms up with this many connections at a time.
WARM = 50
# The errors that httperf reports, and their remedies.
ERRORS = {
    "fd-unavail": "connections beyond the 1,020 that a process can have: the server is behind; "
                  "give a lower rate, or more processes (processes=N)",
    "addrunavail": "connections without a local port: all are in use; give a lower rate, or more "
                   "hosts in the group loadgen",
    "client-timo": f"connections without an answer for {TIMEOUT} s: give a lower rate"}


def texts_of(load):
    """The output of each process, which begins with the words that started it."""
    return re.split(r"^(?=httperf --)", load["tool"].decode(errors="replace"), flags=re.M)[1:]


def histogram(text):
    """Counter {middle of the bin, ms: connections}."""
    return Counter({float(ms): int(number) for ms, number in
                    re.findall(r"^ +(\d+\.\d+) (\d+)$", text, re.M)})


def number(pattern, text):
    return float(re.search(pattern, text, re.M)[1])


def process(text):
    """Metrics of one process without percentiles, and why there are none or None."""
    if not re.search(r"^Errors: fd-unavail", text, re.M):
        return {}, f"httperf failed: {base.last_line(text, 'no output')}"
    for error, what in ERRORS.items():
        found = number(rf"{error} (\d+)", text)
        if found:
            return {}, f"httperf failed: {found:.0f} {what}"
    rate, asked = number(r"--rate=([\d.]+)", text), number(r"--num-conns=(\d+)", text)
    late = number(r"^Maximum connect burst length: (\d+)", text) / rate
    if late > LATE_MAX:
        return {}, (f"httperf was up to {late:.2f} s late with its connections: give a lower rate, "
                    "more processes (processes=N), or a machine with less else to do")
    answered = int(number(r"^Reply status: .*2xx=(\d+)", text))
    seconds = number(r"test-duration ([\d.]+) s", text)
    return {"requests": answered, "failed": int(asked) - answered, "time_s": seconds,
            "throughput_rps": round(answered / seconds, 2),
            "latency_max_ms": number(r"^Connection time \[ms\]: .*max ([\d.]+)", text),
            "latency_mean_ms": number(r"^Connection time \[ms\]: .*avg ([\d.]+)", text)}, None


class Httperf(base.Tool):
    name = "httperf"
    packages = ("httperf",)
    latency = "from opening the connection, at a rate that does not depend on answers, in whole ms"
    by_seconds = open_loop = True

    def commands(self, task):
        return [["httperf", "--hog", "--verbose", "--verbose", "--server", task.address, "--port",
                 task.port, "--uri", task.path, "--add-header", "Connection: close\\n",
                 "--timeout", TIMEOUT, "--rate", one.rate, "--num-conns", one.rate * one.amount,
                 "--num-calls", 1] for one in base.split(task, task.processes, by_seconds=True)]

    def warm_up(self, task):
        return [base.ab_command(task._replace(concurrency=min(task.concurrency, WARM)))]

    def asked(self, task):
        return {"processes": b"%d\n" % len(self.commands(task))}

    def parse(self, load):
        return self.merged([load])

    def merged(self, loads):
        """All processes of all generators: their histograms are added."""
        texts = []
        for load in loads:
            own = texts_of(load)
            if len(own) != int(load.get("processes", 1)):
                out = load["tool"].decode(errors="replace")
                return {}, f"httperf failed: {base.last_line(out, 'no output')}"
            texts += own
        found = [process(text) for text in texts]
        reasons = [reason for _, reason in found if reason]
        if reasons:
            return {}, reasons[0]
        metrics = base.added([metrics for metrics, _ in found])
        # A connection that waited long ends a process late, and has not left it the server alone.
        metrics.pop(base.SHORTEST, None)
        return {**metrics, **base.percentiles_of(sum(map(histogram, texts), Counter()))}, None

    def kept_of(self, loads):
        """With the counts by latency, in whole ms as ab has them, which figures are drawn from."""
        counts = Counter()
        for ms, connections in sum((histogram(text) for load in loads for text in texts_of(load)),
                                   Counter()).items():
            counts["total", int(ms)] += connections
        return {**super().kept_of(loads),
                **({"latencies.csv": ab.counts_csv(counts)} if counts else {})}


TOOL = Httperf()
