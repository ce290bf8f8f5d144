# SPDX-License-Identifier: GPL-2.0-only
"""HAProxy in front of the backend, with a thread for each worker: haproxy.cfg."""
from . import base


class Haproxy(base.Server):
    title = "HAProxy as a proxy"
    packages = ("haproxy",)
    service = "haproxy"
    modes = {"shared", "reuseport"}
    told = "threads"
    stoppable = False

    def config(self, work):
        return base.filled(
            "haproxy.cfg", WORKERS=work.workers, CORES=work.core_list.replace(",", " "),
            BACKEND=work.backend,
            LISTEN="shards by-thread" if work.mode == "reuseport" else "")

    def program(self, work):
        # Its cpu-map is without effect on a single thread.
        return ["taskset", "-c", work.core_list, "haproxy", "-db", "-f", base.CONFIG]


SERVERS = [Haproxy("haproxy", forwards=True)]
