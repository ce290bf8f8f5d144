#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs one of the servers, and prints the results as JSON.

    check.py NAME CONNECTIONS plain|module|kernel

plain: without the library; module, kernel: under fsocketctl run with that backend.
"""
import json
import os
import pathlib
import subprocess
import sys
import time

from tried import CONF, FOLDER, HERE, SERVERS

UNIT = "fsbench-real"
CPUS = sorted(os.sched_getaffinity(0))
# The time within which fsocketctl run gives its verdict, and more.
VERDICT = 15
START = 200


def shell(command, check=False):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                          check=check).stdout.strip()


def asking(server, connections, **more):
    request, answer = server["ask"]
    return subprocess.Popen([f"{HERE}/ask", str(connections), request.hex(), answer.hex(),
                             *map(str, server["ports"])], stdout=subprocess.PIPE, text=True, **more)


def ask(server, connections):
    """The output of ask, after this many connections."""
    return json.loads(asking(server, connections).communicate()[0])


def ask_meanwhile(server, command):
    """Asks from a second before the command until two seconds after it, and runs it."""
    process = asking(server, 0, stdin=subprocess.PIPE)
    time.sleep(1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    time.sleep(2)
    result = json.loads(process.communicate()[0])
    if done.returncode:
        sys.exit(f"it is not reloaded: {done.stderr}{shell(f'journalctl -n 5 -o cat -u {UNIT}')}")
    return result


def accepted_locally():
    """Counts by the module's counters."""
    path = pathlib.Path("/proc/net/fastsocket")
    if not path.exists():
        return 0
    header, *rows = path.read_text().splitlines()
    column = header.split().index("accept_local")
    return sum(int(row.split()[column]) for row in rows)


class Local:
    """Counts connections that workers accept on the core of arrival: .count, after the block."""

    def __init__(self, side):
        self.kernel, self.count = side == "kernel", 0

    def __enter__(self):
        if self.kernel:
            self.watch = subprocess.Popen(["fsocketctl", "watch", "--json", "1"],
                                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                          text=True)
            time.sleep(1)
        else:
            self.before = accepted_locally()
        return self

    def __exit__(self, *_):
        if not self.kernel:
            self.count = accepted_locally() - self.before
            return
        time.sleep(2.5)
        self.watch.send_signal(2)
        for line in self.watch.communicate()[0].splitlines():
            second = json.loads(line)
            if "cpus" in second:
                self.count += round(sum(cpu["accept_local"] for cpu in second["cpus"].values())
                                    * second["seconds"])


def workers():
    """Threads that have a queue of their own; with the kernel backend, also if they are late."""
    rows = json.loads(shell("fsocketctl listeners --json")).get("listeners", [])
    return {worker["tid"] for row in rows for worker in row["workers"]
            if worker["tid"] and (worker["attached"] or row["backend"] == "kernel")}


def narrowed():
    """Threads and children that are not workers, and may not run on all cores."""
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


def start(server, side):
    """Starts it, waits until it answers, and returns the seconds that this took."""
    shell(f"systemctl stop {UNIT}; systemctl reset-failed {UNIT}")
    run = "" if side == "plain" else f"/usr/local/bin/fsocketctl run --backend={side} "
    shell(f"systemd-run -q --collect --unit={UNIT} -p LimitNOFILE=65536 -p TimeoutStopSec=10 "
          f"{server['unit']} {server['command'].format(run=run)}", True)
    begin = time.monotonic()
    while ask(server, len(CPUS))["failed"]:
        if time.monotonic() > begin + START or shell(f"systemctl is-active {UNIT}") != "active":
            sys.exit("it does not answer: " + shell(f"journalctl -n 5 -o cat -u {UNIT}"))
        time.sleep(0.2)
    return round(time.monotonic() - begin)


def verdict(since):
    """The verdict of fsocketctl run, once it is printed."""
    deadline = time.monotonic() + VERDICT
    said = ""
    while not said and time.monotonic() < deadline:
        time.sleep(0.5)
        said = shell(f"journalctl -o cat -u {UNIT} --since '{since}' | grep '^fsocketctl: '")
    return said.replace("fsocketctl: ", "")


def life(server, side, connections):
    """Starts it, asks it, reloads it while it is asked, and stops it."""
    since = shell("date '+%Y-%m-%d %H:%M:%S'")
    result = {"seconds": start(server, side)}
    # For its workers.
    time.sleep(2)
    result["verdict"] = "" if side == "plain" else verdict(since)
    with Local(side) as local:
        result["load"] = ask(server, connections)
    result["local"] = local.count
    result["narrowed"] = narrowed()
    if server["reload"]:
        pid = shell(f"systemctl show -P MainPID {UNIT}")
        result["reload"] = ask_meanwhile(server, f"MAIN={pid}; {server['reload']}")
        with Local(side) as local:
            ask(server, 25 * len(CPUS))
        result["local_afterwards"] = local.count
    shell(f"systemctl stop {UNIT}")
    return result


def main():
    name, connections, side = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    server = SERVERS[name]
    if not shell(f"PATH=$PATH:/usr/sbin:/sbin command -v {server['needs']}"):
        print(json.dumps({"missing": server["needs"]}))
        return
    os.makedirs(f"{FOLDER}/www", exist_ok=True)
    for file, text in {"index.html": "ok", **server["files"]}.items():
        text = text.replace("ALL_CPUS", pathlib.Path("/sys/devices/system/cpu/online")
                            .read_text().strip())
        pathlib.Path(f"{FOLDER}/www/{file}").write_text(text)
    for path in (CONF, CONF + ".py"):
        pathlib.Path(path).write_text(server["conf"])
    print(json.dumps({"name": name, "side": side, "kernel": os.uname().release,
                      "cores": len(CPUS), **life(server, side, connections)}))


main()
