# SPDX-License-Identifier: GPL-2.0-only
"""What a load tool says about itself: each file of this folder has a TOOL, made from Tool."""
from typing import NamedTuple


class Task(NamedTuple):
    """One load."""
    address: str            # of the server
    port: int               # the first, where it has several
    path: str               # of HTTP
    concurrency: int        # connections at a time
    amount: int             # requests, or seconds where by_seconds is true
    workers: int            # of the server
    cores: int              # of the load generator

    @property
    def url(self):
        port = "" if self.port == 80 else f":{self.port}"
        return f"http://{self.address}{port}{self.path}"


class Tool:
    """The defaults are those of a tool for HTTP with a thread and a connection per request."""
    name = ""
    package = ""                # of Debian, that has it
    speaks = "http"             # which servers it is for: Server.speaks
    # From when to the end of the answer its latency counts, for docs/reference.md; and
    # whether that is from opening the connection, so that Little's law holds.
    latency = ""
    from_opening = False
    connection_each = True      # each request opens a connection
    by_seconds = False          # the load is so many seconds, not so many requests
    # What it writes into its folder, to be sections of the load; NAME.xz is compressed, and
    # has to be the last.
    files = ()

    def amount(self, plan):
        return plan["seconds"] if self.by_seconds else plan["requests"]

    def lasts(self, plan):
        """About how many seconds, in the lab, which answers 2,500 requests a second."""
        return plan["seconds"] if self.by_seconds else plan["requests"] / 2500

    def limit(self, plan):
        """For how long a load may take, s: a tenth of the slowest rate ever seen here."""
        return 120 + (plan["seconds"] if self.by_seconds else plan["requests"] // 100)

    def commands(self, task):
        """Lists of words, one for each process; they run at the same time."""
        raise NotImplementedError

    def warm_up(self, task):
        """The same, for task.amount requests of which nothing is kept."""
        return [ab_command(task)]

    def asked(self, _task):
        """Sections of the load that the generator need not tell."""
        return {}

    def parse(self, load):
        """(columns of samples.csv, why there are none or None) of the load's sections."""
        raise NotImplementedError

    def threads(self, _cell, _load):
        """As many CPUs as it can use at a time."""
        return 1

    def kept(self, load):
        """What is kept of the sections: {file of raw/: content}."""
        return {f"{self.name}-{section}.txt": content for section, content in load.items()}


def ab_command(task, *options):
    """ab is also what warms up for tools that cannot be asked for so many requests."""
    return ["ab", "-q", "-r", "-n", task.amount, "-c", task.concurrency, *options, task.url]


def last_line(out, otherwise):
    return (out.strip().splitlines() or [otherwise])[-1]
