# SPDX-License-Identifier: GPL-2.0-only
"""The description of a server: each file of this folder has SERVERS, made from Server."""
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
# server.sh writes the configuration to this file.
CONFIG = "/run/fsbench/config"


class Work(NamedTuple):
    """The task of a server in one repetition."""
    setup: dict             # of the experiment
    workers: int
    backend: str            # IP:PORT that a proxy forwards to
    order: tuple = ()       # in which the server's cores get workers; empty: 0, 1, 2...

    @property
    def cores(self):
        """The numbers of the workers' cores, sorted."""
        return sorted(self.order[:self.workers]) or list(range(self.workers))

    @property
    def core_list(self):
        """The same as taskset takes them."""
        return ",".join(map(str, self.cores)) if self.order else f"0-{self.workers - 1}"

    @property
    def mode(self):
        return self.setup.get("mode", "shared")


class Server:
    """The defaults are those of a server for HTTP whose workers are children of a process."""
    title = ""                  # in docs and pooled tables
    packages = ()               # Debian's that have it: provisioning and the lab install them
    service = ""                # of systemd, which Debian starts and a sweep does not want
    modes = {"shared"}          # how it can listen
    pinned = True               # it takes a core for each worker itself
    speaks = "http"             # which tools are for it: Tool.speaks
    port = 80
    path = "/"                  # of HTTP
    told = "children"           # which its workers are: children, threads, or itself
    answer = ""                 # what has to be in it, where that is looked at before a load
    says = ""                   # how a line begins that it prints when all workers are ready
    stoppable = True            # its workers are processes, of which one can be stopped
    shares = True               # its workers wait for one listener: it can have the kernel backend

    def __init__(self, name, forwards=False):
        self.name = name
        self.forwards = forwards    # it is a proxy, and needs a backend

    def of(self, _setup):
        """The same, as a setup wants it."""
        return self

    def fault(self, setup):
        """The mistake in a setup, in words, or None."""
        return "command: only server: command has one" if "command" in setup else None

    def listeners(self, _workers):
        """The number of sockets that wait when it is ready, at ports from its first on."""
        return 1

    def words(self, work):
        """The server's words for server.sh: {name: value}."""
        return {"port": self.port, "listeners": self.listeners(work.workers), "told": self.told,
                "says": self.says, "pin": int(not self.pinned),
                **({"cores": work.core_list} if work.order else {})}

    def config(self, _work):
        """The text of its configuration, or None."""
        return None

    def program(self, work):
        """The words that start it, in the foreground."""
        raise NotImplementedError


def filled(name, **marks):
    """A file of this folder with what belongs between its @s."""
    text = (HERE / name).read_text(encoding="utf-8")
    for mark, value in marks.items():
        text = text.replace(f"@{mark}@", str(value))
    return text
