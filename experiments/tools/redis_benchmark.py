# SPDX-License-Identifier: GPL-2.0-only
"""redis-benchmark: so many small GETs over connections that last, a process for each instance
of the server, which has its share of connections and requests."""
import csv
import io
import statistics

import proc
from . import base


class RedisBenchmark(base.Tool):
    name = "redis-benchmark"
    packages = ("redis-tools",)
    speaks = "redis"
    latency = "from sending the request"
    connection_each = False
    units = ""                  # A process for each instance of the server.

    def run(self, task, command):
        return [["redis-benchmark", "-h", task.address, "-p", task.port + instance,
                 "-c", max(task.concurrency // task.workers, 1), "-n", task.amount // task.workers,
                 "-t", command, "-d", 64, "--csv"] for instance in range(task.workers)]

    def commands(self, task):
        return self.run(task, "get")

    def warm_up(self, task):
        return self.run(task, "set")

    def asked(self, task):
        return {"number": b"%d\n" % (task.amount // task.workers * task.workers)}

    def parse(self, load):
        """Each instance prints a line of its own; of their latencies, the median."""
        out = load["tool"].decode(errors="replace")
        rows = [row for row in csv.DictReader(io.StringIO(out), restval="")
                if row["test"] == "GET"]
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

    def threads(self, cell, load):
        return min(int(cell["workers"]), len(proc.cpu_times(load["before"])))


TOOL = RedisBenchmark()
