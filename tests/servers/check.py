#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs one of the servers plain and preloaded, and prints as JSON how it went.

    check.py NAME CONNECTIONS
"""
import collections
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

from tried import CONF, FOLDER, PORT, SERVERS

UNIT = "fsbench-real"
LIMIT = 20
# Failures on one core after which no more is asked there.
HOPELESS = 10
CPUS = sorted(os.sched_getaffinity(0))


def shell(command, check=False):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                          check=check).stdout.strip()


def ask(request, answer):
    """One connection; None, or what went wrong."""
    try:
        with socket.create_connection(("127.0.0.1", PORT), timeout=LIMIT) as conn:
            conn.settimeout(LIMIT)
            conn.sendall(request)
            got = b""
            while answer not in got:
                more = conn.recv(4096)
                if not more:
                    return "closed early"
                got += more
    except OSError as error:
        return type(error).__name__
    return None


def client(cpu, talk, until, pipe):
    """Connections from one core; until() says when it is enough."""
    os.sched_setaffinity(0, {cpu})
    failed, count = collections.Counter(), 0
    while not until(count) and sum(failed.values()) < HOPELESS:
        error = ask(*talk)
        count += 1
        if error:
            failed[error] += 1
    os.write(pipe, json.dumps([count, failed]).encode() + b"\n")
    os._exit(0)


def load(talk, until, meanwhile=None):
    """From every core at once; how many, and what failed."""
    reader, writer = os.pipe()
    for cpu in CPUS:
        if not os.fork():
            client(cpu, talk, until, writer)
    os.close(writer)
    if meanwhile:
        time.sleep(1)
        meanwhile()
    with os.fdopen(reader) as lines:
        results = [json.loads(line) for line in lines]
    for _ in CPUS:
        os.wait()
    failed = sum((collections.Counter(one) for _, one in results), collections.Counter())
    return {"connections": sum(count for count, _ in results), "failed": sum(failed.values()),
            "errors": dict(failed)}


def workers():
    """Threads that have a local listener."""
    rows = json.loads(shell("fsocketctl listeners --json"))["listeners"]
    return {worker["tid"] for row in rows for worker in row["workers"]
            if worker["attached"] and worker["tid"]}


def narrowed():
    """Threads and children that are no workers, and may not run on all cores."""
    names, known = [], workers()
    procs = shell(f"cat /sys/fs/cgroup/system.slice/{UNIT}.service/cgroup.procs").split()
    for pid in procs:
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
            try:
                if int(task.name) not in known and \
                        len(os.sched_getaffinity(int(task.name))) < len(CPUS):
                    names.append((task / "comm").read_text().strip())
            except OSError:
                pass
    return names


def counter(name):
    header, *rows = pathlib.Path("/proc/net/fastsocket").read_text().splitlines()
    column = header.split().index(name)
    return sum(int(row.split()[column]) for row in rows)


def start(server, preloaded):
    program = server["command"]
    shell(f"systemctl stop {UNIT}; systemctl reset-failed {UNIT}")
    run = "fsocketctl run " if preloaded else ""
    if program.startswith("systemd-socket-activate") and preloaded:
        run = "env LD_PRELOAD=/usr/local/lib/libfsocket.so "
    shell(f"systemd-run -q --collect --unit={UNIT} -p LimitNOFILE=65536 "
          f"{server['unit']} {run}{program}", True)
    deadline = time.monotonic() + 60
    while ask(*server["ask"]) and time.monotonic() < deadline:
        time.sleep(0.2)


def one_side(server, preloaded, connections):
    """The server's life: started, asked, reloaded while it is asked, stopped."""
    since = shell("date '+%Y-%m-%d %H:%M:%S'")
    start(server, preloaded)
    # For its workers, and for fsocketctl's verdict.
    time.sleep(3)
    each = connections // len(CPUS)
    local = counter("accept_local")
    side = {"load": load(server["ask"], lambda count: count >= each)}
    side["local"] = counter("accept_local") - local
    side["narrowed"] = narrowed()
    if server["reload"]:
        main = shell(f"systemctl show -P MainPID {UNIT}")
        end = time.monotonic() + 6
        side["reload"] = load(server["ask"], lambda _: time.monotonic() > end,
                              lambda: shell(f"MAIN={main}; {server['reload']}"))
        local = counter("accept_local")
        load(server["ask"], lambda count: count >= 25)
        side["local_afterwards"] = counter("accept_local") - local
    said = shell(f"journalctl -o cat -u {UNIT} --since '{since}' | grep '^fsocketctl: '")
    side["verdict"] = said.replace("fsocketctl: ", "")
    shell(f"systemctl stop {UNIT}")
    return side


def main():
    name, connections = sys.argv[1], int(sys.argv[2])
    server = SERVERS[name]
    if not shell(f"PATH=$PATH:/usr/sbin:/sbin command -v {server['needs']}"):
        print(json.dumps({"missing": server["needs"]}))
        return
    os.makedirs(f"{FOLDER}/www", exist_ok=True)
    pathlib.Path(f"{FOLDER}/www/index.html").write_text("ok")
    for path in (CONF, CONF + ".py"):
        pathlib.Path(path).write_text(server["conf"])
    sides = {}
    for side in ("plain", "preloaded"):
        sides[side] = one_side(server, side == "preloaded", connections)
    print(json.dumps({"name": name, "kernel": os.uname().release, "cores": len(CPUS), **sides}))


main()
