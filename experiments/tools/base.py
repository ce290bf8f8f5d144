# SPDX-License-Identifier: GPL-2.0-only
"""The description of a load tool: each file of this folder has a TOOL, made from Tool."""
from typing import NamedTuple


class Task(NamedTuple):
    """One load."""
    address: str            # of the server
    port: int               # the first, where it has several
    path: str               # of HTTP
    concurrency: int        # connections at a time
    amount: int             # requests, or seconds where by_seconds is true
    workers: int            # of the server
    processes: int = 1      # at a time on the load generator; or threads: Tool.units
    sources: tuple = ()     # addresses of the load generator, if not the one of its route

    @property
    def rate(self):
        """Connections to open per second, of an open loop: a plan has it in the same column."""
        return self.concurrency

    @property
    def url(self):
        port = "" if self.port == 80 else f":{self.port}"
        return f"http://{self.address}{port}{self.path}"


def shares(total, parts):
    """Divides total into `parts` whole numbers that differ by 1 at most."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def split(task, parts, by_seconds=False):
    """Divides a task into tasks that run at the same time, each with a connection at least."""
    parts = min(parts, task.concurrency)
    amounts = [task.amount] * parts if by_seconds else shares(task.amount, parts)
    return [task._replace(concurrency=connections,
                          amount=amount if by_seconds else max(amount, connections))
            for connections, amount in zip(shares(task.concurrency, parts), amounts)]


# A metric that is no column: the time when the first of several loads ended, s (verdicts.py).
SHORTEST = "shortest_s"


def added(found):
    """Merges the metrics of loads that ran at the same time, each a mapping, into one mapping.

    Requests are added, and divided by the time until the last load has ended. A mean is weighted
    by the requests. Percentiles cannot be computed from percentiles, and are left out.
    """
    if len(found) == 1:
        return found[0]
    requests = sum(one["requests"] for one in found)
    seconds = max(one["time_s"] for one in found)
    metrics = {"requests": requests, "failed": sum(one["failed"] for one in found),
               "time_s": seconds, "throughput_rps": round(requests / seconds, 2),
               SHORTEST: min(one.get(SHORTEST, one["time_s"]) for one in found)}
    if all("latency_max_ms" in one for one in found):
        metrics["latency_max_ms"] = max(one["latency_max_ms"] for one in found)
    if requests and all("latency_mean_ms" in one for one in found):
        metrics["latency_mean_ms"] = round(sum(
            one["requests"] * one["latency_mean_ms"] for one in found) / requests, 3)
    return metrics


def percentile_of(counts, percent):
    """Returns a percentile, ms, of counts, a mapping {ms: requests}."""
    # Whole numbers decide at the edge: 0.999 times 10,000 would be a little more than 9,990.
    wanted, so_far = percent * sum(counts.values()), 0
    for ms in sorted(counts):
        so_far += counts[ms]
        if 100 * so_far >= wanted:
            return ms
    return max(counts)


def percentiles_of(counts):
    """Returns the percentiles of such a mapping as metrics."""
    return {f"latency_p{name}_ms": percentile_of(counts, percent)
            for name, percent in (("50", 50), ("90", 90), ("99", 99), ("999", 99.9))}


class Tool:
    """The defaults are those of a tool for HTTP with a thread and a connection per request."""
    name = ""
    packages = ()               # Debian's that have it, in one line, which the Makefile reads
    speaks = "http"             # which servers it is for: Server.speaks
    # The moment from which its latency is measured, to the end of the answer, for
    # docs/reference.md; and whether that is the opening of the connection, as Little's law needs.
    latency = ""
    from_opening = False
    connection_each = True      # each request opens a connection
    by_seconds = False          # the amount of a load is in seconds, not in requests
    open_loop = False           # it is told a rate, and does not wait for answers
    # A generator may run several of these to share a load: processes or threads; "" for neither.
    units = "processes"
    binds = False               # it can be told its source address (Task.sources)
    # The files that it writes into its folder, NAME or, for several processes, NAME.1..., which
    # become sections of the load; NAME.xz is compressed, and has to be the last.
    files = ()

    def usual(self, cores, lab):
        """The number of its units on a generator, unless the plan or a search says otherwise."""
        # The kernel needs the other half. In the lab the server needs the generator's cores, too.
        return 1 if lab else max(cores // 2, 1)

    def amount(self, plan):
        return plan["seconds"] if self.by_seconds else plan["requests"]

    def lasts(self, plan):
        """Estimates the seconds of a load in the lab, whose server answers 2,500 requests/s."""
        return plan["seconds"] if self.by_seconds else plan["requests"] / 2500

    def limit(self, plan):
        """The time limit of a load, s: a tenth of the slowest rate ever seen here."""
        return 120 + (plan["seconds"] if self.by_seconds else plan["requests"] // 100)

    def commands(self, task):
        """Lists of words, one for each process; the processes run at the same time."""
        raise NotImplementedError

    def warm_up(self, task):
        """The commands for task.amount requests whose results are not kept."""
        return [ab_command(one) for one in split(task, task.processes)]

    def asked(self, _task):
        """Sections of the load that do not come from the generator."""
        return {}

    def parse(self, load):
        """(columns of samples.csv, why there are none or None) of the load's sections."""
        raise NotImplementedError

    def merged(self, loads):
        """Does the same for a list of loads, of several generators at the same time."""
        found = [self.parse(load) for load in loads]
        reasons = [reason for _, reason in found if reason]
        return ({}, reasons[0]) if reasons else (added([metrics for metrics, _ in found]), None)

    def threads(self, _cell, load):
        """The number of CPUs of a generator that it can use at a time."""
        return int(load.get("processes", 1))

    def kept(self, load):
        """The sections that are kept: {file of raw/: content}."""
        return {f"{self.name}-{section}.txt": content for section, content in load.items()}

    def kept_of(self, loads):
        """The kept sections of all generators; files of all but the first begin with its number."""
        return {f"{number}-{name}" if number > 1 else name: content
                for number, load in enumerate(loads, 1)
                for name, content in self.kept(load).items()}


def ab_command(task, *options):
    """Returns the words of ab, which also warms up for tools that take no number of requests."""
    return ["ab", "-q", "-r", "-n", task.amount, "-c", task.concurrency, *options, task.url]


def last_line(out, otherwise):
    return (out.strip().splitlines() or [otherwise])[-1]
