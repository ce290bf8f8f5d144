# SPDX-License-Identifier: GPL-2.0-only
"""The servers by name, SERVERS: one file describes each, alone and as a proxy."""
import importlib
import pkgutil

from .base import Work  # noqa: F401 (what a server is to do)

SERVERS = {server.name: server for file in pkgutil.iter_modules(__path__) if file.name != "base"
           for server in importlib.import_module(f"{__name__}.{file.name}").SERVERS}
DEFAULT = "demo"


def of(setup):
    """The server of a setup."""
    return SERVERS[setup.get("server", DEFAULT)].of(setup)


def stoppable():
    """Names of those of which a worker can be stopped."""
    return sorted(name for name, server in SERVERS.items() if server.stoppable)


def packages():
    """Names of Debian's, of all of them, sorted."""
    return sorted({name for server in SERVERS.values() for name in server.packages})


def services():
    """Pairs (package, service that it starts) of all of them, sorted."""
    return sorted({(name, server.service) for server in SERVERS.values()
                   for name in server.packages if server.service})
