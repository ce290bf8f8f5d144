# SPDX-License-Identifier: GPL-2.0-only
"""nginx, which answers itself or is a proxy: nginx.conf."""
from . import base


class Nginx(base.Server):
    packages = ("nginx-light",)
    service = "nginx"
    modes = {"shared", "reuseport"}

    @property
    def title(self):
        return "nginx as a proxy" if self.forwards else "nginx"

    def config(self, work):
        # Its mask is binary, and that of all cores if there is none.
        mask = f" {sum(1 << core for core in work.cores):b}" if work.order else ""
        return base.filled(
            "nginx.conf", WORKERS=work.workers, CORES=mask,
            LISTEN="reuseport" if work.mode == "reuseport" else "",
            ANSWER=f"proxy_pass http://{work.backend}" if self.forwards else 'return 200 "ok\\n"')

    def program(self, work):
        return ["nginx", "-c", base.CONFIG]


SERVERS = [Nginx("nginx"), Nginx("nginx-proxy", forwards=True)]
