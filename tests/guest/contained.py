#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""nginx with the kernel backend, and clients on all cores: prints what was seen, as JSON.

The same program runs in a container and outside. FSOCKET_STEAL_AFTER_MS is its caller's.
"""
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

PORT = 8085
PID = "/tmp/nginx.pid"
# From each core: at first, and after each change.
CONNECTIONS, AGAIN = 200, 50
CORES = sorted(os.sched_getaffinity(0))
NGINX = f"""
worker_processes {len(CORES)};
pid {PID};
error_log stderr warn;
env LD_PRELOAD;
env FSOCKET_BACKEND;
env FSOCKET_STEAL_AFTER_MS;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    server {{ listen 127.0.0.1:{PORT} backlog=4096; return 200 $pid; }}
}}
"""
# Numbers of calls of x86-64.
CALLS = {"kcmp": 312, "bpf": 321, "io_uring_setup": 425}


def errors():
    """The error of each call; without a filter kcmp() has none."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for name, number in CALLS.items():
        own = os.getpid() if name == "kcmp" else -1
        ctypes.set_errno(0)
        libc.syscall(number, own, own, 0, 0, 0)
        found[name] = ctypes.get_errno()
    return found


def ask():
    """The worker that answers a new connection."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=20) as one:
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = one.recv(4096, socket.MSG_WAITALL)
        return int(answer.split(b"\r\n\r\n")[1])


def client(core, homes, count):
    """Connects from one core: how many were answered, and how many by the core's worker."""
    os.sched_setaffinity(0, {core})
    answered = local = 0
    for _ in range(count):
        try:
            pid = ask()
        except (OSError, ValueError, IndexError) as error:
            print(repr(error), file=sys.stderr)
            continue
        answered += 1
        local += homes.get(pid) == core
    return answered, local


def load(homes, count=AGAIN):
    """The same from all cores at once."""
    pipes = []
    for core in CORES:
        ours, theirs = os.pipe()
        if not os.fork():
            os.write(theirs, b"%d %d" % client(core, homes, count))
            os._exit(0)
        os.close(theirs)
        pipes.append(ours)
    both = [list(map(int, os.read(one, 64).split())) for one in pipes]
    for _ in CORES:
        os.wait()
    return {"failed": len(CORES) * count - sum(one[0] for one in both),
            "local": sum(one[1] for one in both)}


def workers():
    """{worker: its core} of those that have a socket of their own, as fsocketctl says."""
    done = subprocess.run(["fsocketctl", "listeners", "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False)
    listeners = json.loads(done.stdout)["listeners"] if done.returncode == 0 else []
    return {worker["pid"]: worker["cpu"] for one in listeners if one["port"] == PORT
            for worker in one["workers"] if worker["attached"]}


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return {int(child) for child in file.read().split()}


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)


def settled(master):
    """Waits until each core's worker has a socket of its own."""
    def ready():
        # Workers that have been alone wake up.
        for _ in range(2 * len(CORES)):
            ask()
        homes = workers()
        return set(homes) == children(master) and sorted(homes.values()) == CORES
    until(ready)
    return workers()


def listening():
    return subprocess.check_output(["ss", "-Hltn", f"sport = :{PORT}"]).count(b"LISTEN")


def master():
    with open(PID, encoding="ascii") as file:
        return int(file.read())


def upgrade(old):
    """Has nginx run its program anew, and its old processes end; then the same load."""
    os.kill(old, signal.SIGUSR2)
    until(lambda: os.path.exists(f"{PID}.oldbin") and os.path.exists(PID))
    until(lambda: len(children(master())) == len(CORES))
    os.kill(old, signal.SIGQUIT)
    until(lambda: not os.path.exists(f"{PID}.oldbin"))
    return {**load({}), "sockets": listening(), "workers": len(workers())}


def run(old, seen):
    homes = settled(old)
    seen["sockets"] = listening()
    seen["first"] = load(homes, CONNECTIONS)
    # A worker is killed while all are idle, and its successor starts.
    victim = min(homes)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in children(old))
    seen["after a kill"] = load(settled(old))
    seen["after an upgrade"] = upgrade(old)


def main():
    seen = {"errors": errors()}
    with open("/proc/self/status", encoding="ascii") as file:
        seen["status"] = dict(re.findall(r"^(CapBnd|NoNewPrivs|Seccomp|Uid):\t(\w+)",
                                         file.read(), re.M))
    with open("/tmp/nginx.conf", "w", encoding="ascii") as file:
        file.write(NGINX)
    with open("/tmp/nginx.said", "w+", encoding="ascii") as said:
        # nginx runs $0 at an upgrade.
        subprocess.run(["fsocketctl", "run", "--backend=kernel", "--json", "/usr/sbin/nginx", "-e",
                        "stderr", "-c", "/tmp/nginx.conf"], stderr=said, check=True)
        until(listening)
        try:
            run(master(), seen)
        finally:
            os.kill(master(), signal.SIGTERM)
        said.seek(0)
        seen["said"] = [json.loads(line) for line in said if line.startswith("{")]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
