# SPDX-License-Identifier: GPL-2.0-only
"""ab, of Apache: so many requests, each with a connection of its own; one thread. So it may be
several processes, which share connections and requests.

What several processes measured is merged from what they list of their requests: of each request
the time in whole ms; and, finer, the 99 percentiles of each process, which stand for a hundredth
of its requests each. So p50 and p90 of several are right within one percent of the requests.
"""
import csv
import io
import itertools
import lzma
import re
from collections import Counter
from typing import NamedTuple

from . import base


def percentile(values, percent):
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def lists_of(requests):
    """Rows of the files that ab -g wrote, one after the other, compressed: a list for each."""
    text = lzma.decompress(requests).decode()
    return [list(csv.DictReader(io.StringIO(one), delimiter="\t"))
            for one in re.split(r"^(?=starttime\t)", text, flags=re.M) if one]


def counts_csv(counts):
    """CSV, bytes, of {(of which time, ms): requests}."""
    return "".join(["time,ms,requests\n", *(f"{name},{ms},{number}\n" for (name, ms), number
                                            in sorted(counts.items()))]).encode()


def latency_counts(requests):
    """CSV of the same: how many requests had which time.

    Columns: of which time, connect or total; ms; requests. Sorted, so that it is all that
    is in the two columns that are used, in a hundredth of the space.
    """
    counts = Counter()
    for rows in lists_of(requests):
        for row in rows:
            counts["connect", int(row["ctime"])] += 1
            counts["total", int(row["ttime"])] += 1
    return counts_csv(counts)


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


def mixed(processes, percent):
    """A percentile, ms, over the requests of several Processes."""
    weights = sorted((edge, len(one.total)) for one in processes
                     for edge in (*(float(one.latency[str(part)]) for part in range(1, 100)),
                                  one.total[-1]))
    wanted, so_far = percent * sum(len(one.total) for one in processes), 0
    for edge, requests in weights:
        so_far += requests
        if so_far >= wanted:
            return edge
    return weights[-1][0]


class Process(NamedTuple):
    """The output and the files of one ab."""
    out: str
    latency: dict           # its percentiles, texts, by percent, text
    connect: list           # of each request, sorted, whole ms
    total: list

    def number(self, label):
        found = re.search(rf"^{label}: +([\d.]+)", self.out, re.M)
        return float(found[1]) if found else 0

    def metrics(self):
        """Columns of samples.csv, whose percentiles are right if there is no other process."""
        return {
            "requests": int(self.number("Complete requests")),
            "failed": int(self.number("Failed requests") + self.number("Non-2xx responses")),
            "time_s": self.number("Time taken for tests"),
            "throughput_rps": self.number("Requests per second"),
            "latency_p50_ms": float(self.latency["50"]),
            "latency_p90_ms": float(self.latency["90"]),
            "latency_p99_ms": float(self.latency["99"]),
            "latency_p999_ms": percentile(self.total, 99.9),
            "latency_max_ms": self.total[-1],
            "latency_mean_ms": round(mean_of_percentiles(self.latency, self.total)
                                     or sum(self.total) / len(self.total), 3),
            "connect_p99_ms": percentile(self.connect, 99),
        }


def outputs(load):
    """The output of each ab: load.sh returns one after the other, and this is how each begins."""
    return re.split(r"^(?=This is ApacheBench)", load["tool"].decode(errors="replace").lstrip(),
                    flags=re.M)


def processes_of(load):
    """[Process] of one generator's load; ValueError where one of them has written no lists."""
    tables = [one for one in re.split(r"^(?=Percentage served)", load["percentiles"].decode(),
                                      flags=re.M) if one]
    found = []
    for out, table, rows in zip([one for one in outputs(load) if one], tables,
                                lists_of(load["requests"]), strict=True):
        connect, total = zip(*((int(row["ctime"]), int(row["ttime"])) for row in rows))
        found.append(Process(out, {row[0]: row[1] for row in csv.reader(io.StringIO(table))},
                             sorted(connect), sorted(total)))
    return found


class Ab(base.Tool):
    name = "ab"
    packages = ("apache2-utils",)
    latency = "from opening the connection"
    from_opening = binds = True
    # ab writes the files of -e and -g; an ab that failed writes neither.
    files = ("percentiles", "requests.xz")

    def commands(self, task):
        tasks = base.split(task, task.processes)
        ends = [f".{number:03}" for number in range(1, len(tasks) + 1)] if len(tasks) > 1 else [""]
        return [base.ab_command(one, "-e", f"percentiles{end}", "-g", f"requests{end}", *own)
                for one, end, own in zip(tasks, ends, itertools.cycle(
                    [("-B", address) for address in task.sources] or [()]))]

    def asked(self, task):
        number = len(base.split(task, task.processes))
        return {**({"processes": b"%d\n" % number} if task.processes > 1 else {}),
                **({"addresses": b"%d\n" % min(number, len(task.sources))}
                   if task.sources else {})}

    def parse(self, load):
        return self.merged([load])

    def merged(self, loads):
        """All processes of all generators are merged alike."""
        for out in (out for load in loads for out in outputs(load)):
            if out and not re.search(r"^Requests per second:", out, re.M):
                return {}, f"ab failed: {base.last_line(out, 'no output')}"
        if not all(load["tool"].strip() for load in loads):
            return {}, "ab failed: no output"
        processes = [one for load in loads for one in processes_of(load)]
        metrics = base.added([one.metrics() for one in processes])
        if len(processes) > 1:
            total = sorted(ms for one in processes for ms in one.total)
            connect = sorted(ms for one in processes for ms in one.connect)
            metrics.update({"latency_p50_ms": mixed(processes, 50),
                            "latency_p90_ms": mixed(processes, 90),
                            "latency_p99_ms": percentile(total, 99),
                            "latency_p999_ms": percentile(total, 99.9),
                            "connect_p99_ms": percentile(connect, 99)})
        return metrics, None

    def kept(self, load):
        rest = {name: content for name, content in load.items()
                if name not in ("percentiles", "requests")}
        kept = {**super().kept(rest), "percentiles.csv": load.get("percentiles", b"")}
        try:
            kept["latencies.csv"] = latency_counts(load["requests"])
        except (LookupError, ValueError, TypeError, EOFError, lzma.LZMAError):
            pass    # The end of ab's output is kept, and parse() reports it.
        return kept

    def kept_of(self, loads):
        """The counts by latency are those of all generators, which figures are drawn from."""
        kept = super().kept_of(loads)
        counts = Counter()
        for content in (kept.pop(name) for name in list(kept) if name.endswith("latencies.csv")):
            for row in csv.DictReader(io.StringIO(content.decode())):
                counts[row["time"], int(row["ms"])] += int(row["requests"])
        return {**kept, **({"latencies.csv": counts_csv(counts)} if counts else {})}


TOOL = Ab()
