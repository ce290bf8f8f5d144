# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl with the library's kernel backend: every subcommand that shows something."""
import json
import re

import pytest

from conftest import KERNELS
from ctl import SERVER, Unit, ctl, delivered, eventually, findings, listener, unpinned
from test_load import ab, figures

MIGRATE = "net.ipv4.tcp_migrate_req"
KERNEL = "-E FSOCKET_BACKEND=kernel"
# Connects and waits to be closed, so that workers which have been alone wake up.
KNOCK = "python3 -c 'import socket; [socket.create_connection((\"127.0.0.1\", {port})).close() " \
        "for _ in range(20)]'"

pytestmark = [pytest.mark.usefixtures("quiet_kernel", "no_module"),
              pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")]


@pytest.fixture(scope="module")
def no_module(lab):
    """The kernel backend alone, without servers."""
    usual = lab.server(f"sysctl -n {MIGRATE}").stdout.strip()
    lab.unload_module()
    lab.server(f"nft flush ruleset; sysctl -w {MIGRATE}=1")
    yield
    lab.server(f"sysctl -w {MIGRATE}={usual}; modprobe fastsocket")


def attached(lab, port):
    entry = listener(lab, port) if has_servers(lab) else None
    return [worker for worker in entry["workers"] if worker["attached"]] if entry else []


def has_servers(lab):
    return lab.server("fsocketctl listeners", check=False).returncode == 0


def serving(lab, name="backend", port=80, count=8, options=""):
    """The demo server, when all its workers have sockets of their own."""
    unit = Unit(lab, name, f"{options} {KERNEL} {SERVER} -w {count} -a 0.0.0.0:{port}")

    def ready():
        lab.server(KNOCK.format(port=port), check=False)
        return len(attached(lab, port)) == count
    try:
        eventually(ready)
    except BaseException:
        unit.give_up()
        raise
    return unit


def test_doctor_on_cores_without_a_worker(lab, no_module):
    """The first test here, since a worker of any server would make up for its core."""
    with serving(lab, "few", 8083, 4), delivered(lab):
        pass


@pytest.fixture(scope="module")
def server(lab, no_module):
    with serving(lab) as unit:
        yield unit


def test_listeners(lab, server):
    entry = listener(lab, 80)
    assert (entry["backend"], entry["address"], entry["family"], entry["sockets"]) == \
        ("kernel", "0.0.0.0", 4, 8)
    sockets = {int(ino): line.split() for line in lab.server("ss -Hltne sport = :80").stdout
               .splitlines() for ino in re.findall(r"\bino:(\d+)", line)}
    assert set(sockets) == {entry["inode"], *(worker["inode"] for worker in entry["workers"])}
    assert [worker["cpu"] for worker in entry["workers"]] == list(range(8))
    assert {worker["pid"] for worker in entry["workers"]} == server.children()
    for worker in entry["workers"]:
        assert worker["pinned"] and worker["limit"] == int(sockets[worker["inode"]][2])
        assert (worker["tid"], worker["command"]) == (worker["pid"], "fsbench-server")
        pinned = lab.server(f"taskset -cp {worker['pid']}").stdout
        assert pinned.endswith(f": {worker['cpu']}\n")
    text = lab.server("fsocketctl listeners").stdout
    assert f"0.0.0.0:80 (socket {entry['inode']}, kernel backend)\n" in text
    for worker in entry["workers"]:
        assert re.search(rf"^ +{worker['cpu']} +\d+ +{worker['limit']}  attached +"
                         rf"{worker['pid']}  fsbench-server$", text, re.M)
    # As with the module, other network namespaces are not shown.
    assert lab.server("unshare --net fsocketctl listeners", check=False).returncode == 1


def test_waiting_connections(lab, server):
    """Waiting connections are shown in their queue."""
    pids = " ".join(map(str, server.children()))
    lab.server(f"kill -STOP {pids}")
    try:
        waiting = "import socket, time; all = [socket.create_connection((\"10.66.0.1\", 80)) " \
                  "for _ in range(60)]; time.sleep(30)"
        load = lab.start_load(f"exec python3 -c '{waiting}'")
        eventually(lambda: sum(worker["queued"] for worker in listener(lab, 80)["workers"])
                   + listener(lab, 80)["queued"] == 60)
    finally:
        lab.server(f"kill -CONT {pids}")
        load.kill()
        load.wait()
    eventually(lambda: all(worker["queued"] == 0 for worker in listener(lab, 80)["workers"]))


def test_status(lab, server):
    """status shows the servers although there is no module; a program's own group is not listed."""
    with Unit(lab, "own", f"{SERVER} -w 2 -m reuseport -a 0.0.0.0:8081", preload=False):
        eventually(lambda: lab.server("ss -Hltn sport = :8081").stdout.count("LISTEN") == 2)
        status = ctl(lab, "status")
    assert status == {"version": None, "parameters": {}, "counters": {}, "servers": [
        {"backend": "kernel", "address": "0.0.0.0", "port": 80, "family": 4,
         "inode": listener(lab, 80)["inode"], "workers": 8}]}
    text = lab.server("fsocketctl status").stdout
    assert text.startswith("fastsocket: the module is not loaded")
    assert re.search(r"^kernel +8  0\.0\.0\.0:80$", text, re.M)


def test_of_another_user(lab, server):
    """Each user sees their own servers; root sees all."""
    ask = "setpriv --reuid=65534 --regid=65534 --clear-groups fsocketctl"
    done = lab.server(f"{ask} listeners", check=False)
    assert done.returncode == 1 and "no server of this user uses" in done.stderr
    with serving(lab, "nobody", 8082, 2, "-p User=65534"):
        said = json.loads(lab.server(f"{ask} listeners --json").stdout)["listeners"]
        assert [one["port"] for one in said] == [8082]
        assert [one["port"] for one in ctl(lab, "listeners")["listeners"]] == [80, 8082]


def watched(lab):
    """Returns after two further looks of watch: the first may have been under way."""
    def looks():
        return int(lab.server("grep -c ^{ /run/watch || :").stdout or 0)
    first = looks()
    eventually(lambda: looks() >= first + 2)


def test_watch(lab, server):
    """Connections are counted on the core that accepts them."""
    with Unit(lab, "watch", "sh -c 'fsocketctl watch --json > /run/watch'", preload=False):
        watched(lab)
        assert figures(lab.loadgen(ab(2000, 50)).stdout) == (2000, 0)
        watched(lab)
        lines = [json.loads(line) for line in lab.server("cat /run/watch").stdout.splitlines()]
    counts = {name: 0 for name in ("accept_local", "accept_global", "accept_remote")}
    for line in lines:
        assert list(line["cpus"]) == [str(cpu) for cpu in range(lab.cores)]
        for cpu in line["cpus"].values():
            assert set(cpu) == set(counts)
            for name, rate in cpu.items():
                counts[name] += rate * line["seconds"]
    # ab opens some connections more than it makes requests.
    assert 2000 <= sum(counts.values()) + 0.5 < 2200, counts
    assert counts["accept_local"] > counts["accept_global"], counts


def text_of(report, item):
    return [entry["text"] for entry in report["items"] if entry["item"] == item]


def test_doctor(lab, server):
    found, report = findings(lab)
    assert found == [], report
    assert text_of(report, "module") == [
        "not loaded, and 1 listener is served by the kernel backend, which does without"]
    lab.server(f"sysctl -w {MIGRATE}=0")
    try:
        with unpinned(lab, server) as victim:
            found, report = findings(lab)
    finally:
        lab.server(f"sysctl -w {MIGRATE}=1")
    assert found == ["pinning", "migrate"], report
    assert text_of(report, "pinning") == [
        f"port 80: 1 of 8 workers are not pinned to a core, process {victim} "
        "(fsbench-server) for one"]
    remedy = next(e["remedy"] for e in report["items"] if e["item"] == "migrate")
    assert remedy == f"sysctl -w {MIGRATE}=1"
    assert findings(lab)[0] == []


def test_doctor_on_fewer_cores(lab, server):
    """A server that was started on four cores keeps four sockets."""
    with serving(lab, "few", 8083, 4, "-p CPUAffinity=0-3"):
        found, report = findings(lab)
        assert found == ["workers", "sockets"], report
        assert text_of(report, "sockets") == [
            "port 8083: the kernel backend has made 4 sockets for 8 cores"]
        assert text_of(report, "workers")[0].startswith(
            "port 8083 has 4 workers, and 8 cores receive packets")
    with Unit(lab, "lone", f"{KERNEL} {SERVER} -w 1 -a 0.0.0.0:8084"):
        eventually(lambda: listener(lab, 8084))
        eventually(lambda: findings(lab)[0] == ["workers"])


# One process keeps the listener, as the manager does for a socket unit; the server ends.
HOLDER = r"""
import contextlib, os, signal, socket, subprocess, sys, time
server = '''
import os, select, socket
s = socket.socket(fileno=3)
s.setblocking(False)
s.listen(128)
os.fork()
e = select.epoll()
e.register(s, select.EPOLLIN)
while True:
    for _ in e.poll():
        try:
            s.accept()[0].close()
        except BlockingIOError:
            pass
'''
here = ("127.0.0.1", 8085)
listener = socket.create_server(here, backlog=128)
os.dup2(listener.fileno(), 3)
environment = {**os.environ, "LD_PRELOAD": "/usr/local/lib/libfsocket.so",
               "FSOCKET_BACKEND": "kernel"}
child = subprocess.Popen([sys.executable, "-c", server], pass_fds=[3], env=environment,
                         start_new_session=True)
seen = ""
while seen.count("attached") < 2:
    socket.create_connection(here).close()
    seen = subprocess.run(["fsocketctl", "listeners"], capture_output=True, text=True).stdout
    seen = seen[seen.index(":8085"):] if ":8085" in seen else ""
os.killpg(child.pid, signal.SIGSTOP)
all = [socket.create_connection(here) for _ in range(20)]
os.killpg(child.pid, signal.SIGKILL)
child.wait()
# Until no process of it is left that has the listener.
with contextlib.suppress(ProcessLookupError):
    while True:
        os.killpg(child.pid, 0)
        time.sleep(0.1)
listener.setblocking(False)
count = 0
try:
    while listener.accept():
        count += 1
except BlockingIOError:
    print(count)
"""


@pytest.mark.parametrize("migrate, kept", [(0, 0), (1, 20)])
def test_what_migrate_costs(lab, server, migrate, kept):
    """doctor's finding when a server ends whose listener another process has, too."""
    lab.server(f"sysctl -w {MIGRATE}={migrate}")
    try:
        assert int(lab.server("python3 -", stdin=HOLDER).stdout) == kept
    finally:
        lab.server(f"sysctl -w {MIGRATE}=1")


@pytest.mark.parametrize("backend", ["auto", "kernel"])
def test_run(lab, backend):
    """The verdict is the one of the backend that is in force."""
    lab.server("journalctl --rotate --vacuum-time=1s", check=False)
    with Unit(lab, f"run-{backend}", f"fsocketctl run --backend={backend} {SERVER} -w 8 "
              "-a 0.0.0.0:8086", preload=False) as unit:
        eventually(lambda: "\nfsocketctl: " in unit.messages())
        # The first of them has been alone, and wakes up with the first connection.
        assert re.search(r"^fsocketctl: Fastsocket is in effect by the kernel backend: "
                         r"[78] sockets on [78] cores", unit.messages(), re.M), unit.messages()
    done = lab.server("fsocketctl run --backend=module true", check=False)
    assert (done.returncode, done.stderr) == (
        0, "fsocketctl: no effect: the module is not loaded: load it with: modprobe fastsocket, "
        "or do without: fsocketctl run --backend=kernel\n")


def test_beside_the_module(lab, server):
    """Both are shown, each with its backend; auto takes the module."""
    lab.server("modprobe fastsocket")
    try:
        with Unit(lab, "module", f"-E FSOCKET_BACKEND=auto {SERVER} -w 8 -a 0.0.0.0:8087"):
            eventually(lambda: len(attached(lab, 8087)) == 8)
            assert {one["port"]: (one["backend"], one["workers"])
                    for one in ctl(lab, "status")["servers"]} == {
                80: ("kernel", 8), 8087: ("module", 8)}
            assert [one["backend"] for one in ctl(lab, "listeners")["listeners"]] == \
                ["module", "kernel"]
            assert findings(lab)[0] == []
        eventually(lambda: not attached(lab, 8087))
    finally:
        lab.unload_module()
