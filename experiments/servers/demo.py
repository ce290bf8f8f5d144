# SPDX-License-Identifier: GPL-2.0-only
"""The demo server (demo/), also as a proxy: it takes a core for each worker itself."""
from . import base


class Demo(base.Server):
    title = "demo server"
    # Its option -m.
    modes = {"shared", "exclusive", "reuseport", "cbpf"}
    says = "ready:"

    def program(self, work):
        return ["/usr/local/bin/fsbench-server", "-m", work.mode, "-w", work.workers,
                *(["-c", work.core_list] if work.order else []),
                *(["-x", work.backend] if self.forwards else [])]


SERVERS = [Demo("demo"), Demo("demo-proxy", forwards=True)]
