# SPDX-License-Identifier: GPL-2.0-only
"""Redis, which has one thread that serves: an instance with a core and a port of its own for each
worker. Nothing is kept on disk."""
from . import base

# Its arguments are the first port and the cores.
INSTANCES = """port=$1
shift
for core; do
    taskset -c $core redis-server --port $port --bind 0.0.0.0 --protected-mode no --save "" &
    port=$((port + 1))
done
wait"""


class Redis(base.Server):
    packages = ("redis-server",)
    service = "redis-server"
    title = "Redis"
    speaks = "redis"
    port = 6379
    shares = False
    # A stopped instance is a port without a server.
    stoppable = False

    def listeners(self, workers):
        return workers

    def program(self, work):
        return ["bash", "-c", INSTANCES, "-", self.port, *map(str, work.cores)]


SERVERS = [Redis("redis")]
