# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl with the module, a server and load; doctor: test_doctor.py."""
import json
import re
import subprocess

import pytest

from conftest import KERNELS, SOURCES
from ctl import (PARAMETERS, PORT, SERVER, Unit, attached, ctl, eventually, listener, nginx,
                 serving, value)
from test_load import ab, figures, patience

# On one kernel: what differs between them, the other tests of the guest see.
pytestmark = [pytest.mark.usefixtures("quiet_kernel"),
              pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")]


def test_status(lab):
    status = ctl(lab, "status")
    names = lab.server(f"ls {PARAMETERS}").stdout.split()
    assert list(status["parameters"]) == sorted(names)
    described = lab.server("modinfo -F parm fastsocket").stdout.splitlines()
    text = lab.server("fsocketctl status").stdout
    for name in names:
        parameter = status["parameters"][name]
        assert parameter["value"] == value(lab, name)
        assert f"{name}:{parameter['meaning']}" in described
        assert re.search(rf"^{name} +{parameter['value']}  {re.escape(parameter['meaning'])}$",
                         text, re.M)
    assert status["servers"] == []
    counters = lab.counters()
    assert list(status["counters"]) == list(counters)
    for name, total in status["counters"].items():
        assert re.search(rf"^{name} +\d+$", text, re.M)
        assert total <= sum(counters[name].values())


def test_status_is_for_everybody(lab):
    for subcommand in ("status", "listeners"):
        lab.server(f"setpriv --reuid=65534 --clear-groups fsocketctl {subcommand}")


def test_set(lab):
    try:
        done = ctl(lab, "set enable_fastsocket_debug=4 enable_listen_spawn=1")
        assert done == {"enable_fastsocket_debug": {"old": "3", "new": "4"},
                        "enable_listen_spawn": {"old": "2", "new": "1"}}
        assert (value(lab, "enable_fastsocket_debug"), value(lab, "enable_listen_spawn")) == \
            ("4", "1")
        text = lab.server("fsocketctl set enable_listen_spawn=2").stdout
        assert text == "enable_listen_spawn: 2, was 1\n"
    finally:
        lab.server("fsocketctl set enable_fastsocket_debug=3 enable_listen_spawn=2")


@pytest.mark.parametrize("bad, sentence", [
    ("enable_listen_spawn=9", "enable_listen_spawn=9: the module does not allow that value ("),
    ("enable_listen_spawn=", "enable_listen_spawn=: the module does not allow that value ("),
    ("enable_listen_spawn=-1", "enable_listen_spawn=-1: the module does not allow that value ("),
    ("steal_after_ms=0", "steal_after_ms=0: the module does not allow that value ("),
])
def test_set_is_all_or_nothing(lab, bad, sentence):
    before = ctl(lab, "status")["parameters"]
    done = lab.server("fsocketctl set enable_fastsocket_debug=5 enable_direct_tcp=1 "
                      f"enable_fastsocket_debug=1 '{bad}' enable_listen_spawn=0", check=False)
    meaning = before[bad.split("=", maxsplit=1)[0]]["meaning"]
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == \
        f"fsocketctl: {sentence}{meaning}); what was set before is put back\n"
    assert ctl(lab, "status")["parameters"] == before
    assert ctl(lab, f"set {bad}", status=1) == {"error": f"{sentence}{meaning})"}


def test_set_what_there_is_not(lab):
    before = ctl(lab, "status")["parameters"]
    done = lab.server("fsocketctl set enable_listen_spawn=0 enable_nothing=1", check=False)
    assert (done.returncode, done.stderr) == (
        1, "fsocketctl: enable_nothing: there is no such parameter: "
        "fsocketctl status lists them\n")
    done = lab.server("setpriv --reuid=65534 --clear-groups "
                      "fsocketctl set enable_listen_spawn=0", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("fsocketctl: enable_listen_spawn=0: only root may (")
    assert ctl(lab, "status")["parameters"] == before


def watched(lab):
    """Returns after two further looks of each watch: the first may have been under way."""
    def looks():
        return [int(lab.server(f"grep -c {begin} {path} || :").stdout or 0)
                for path, begin in (("/run/watch", "^{"), ("/run/table", "^..cpu"))]
    first = looks()
    eventually(lambda: all(now >= then + 2 for now, then in zip(looks(), first)))


def test_watch(lab):
    """Rates times intervals are what the counters have grown by."""
    requests = 3000
    with serving(lab, port=80):
        before = lab.counters()
        with Unit(lab, "watch", "sh -c 'fsocketctl watch --json 2 > /run/watch'", preload=False):
            with Unit(lab, "table", "sh -c 'fsocketctl watch > /run/table'", preload=False):
                # Both have taken their first look, and take another after the load.
                watched(lab)
                assert figures(lab.loadgen(ab(requests, 50)).stdout) == (requests, 0)
                after = lab.counters()
                watched(lab)
        lines = [json.loads(line) for line in lab.server("cat /run/watch").stdout.splitlines()]
        text = lab.server("cat /run/table").stdout
    assert len(lines) >= 2
    for line in lines:
        assert set(line) == {"time", "seconds", "cpus"}
        # On a busy machine it may wake up late.
        assert 2 <= line["seconds"] < 20
        assert list(line["cpus"]) == [str(cpu) for cpu in range(lab.cores)]
    for cpu in range(lab.cores):
        for name in ("accept_local", "accept_global", "accept_remote"):
            grown = sum(line["cpus"][str(cpu)][name] * line["seconds"] for line in lines)
            assert grown == pytest.approx(after[name][cpu] - before[name][cpu], abs=0.1)

    tables = text.strip().split("\n\n")
    assert len(tables) >= 3
    total = 0
    for table in tables:
        header, *rows, last = [row.split() for row in table.split("\n")]
        assert header[0] == "cpu" and "spawn" in header
        assert [row[0] for row in rows] == [str(cpu) for cpu in range(lab.cores)]
        assert last[0] == "all"
        # A counter that has counted nothing yet is not shown.
        total += int(last[header.index("accept_local")]) if "accept_local" in header else 0
    # These are rates, of intervals of a second or more.
    assert total > 0.3 * sum(after["accept_local"][cpu] - before["accept_local"][cpu]
                             for cpu in range(lab.cores))


def test_listeners(lab):
    with serving(lab, options=f"-a 0.0.0.0:{PORT} -a [fd66::1]:{PORT + 1}") as unit:
        eventually(lambda: len(attached(lab, PORT + 1)) == lab.cores)
        entry = listener(lab, PORT)
        assert (entry["address"], entry["family"], entry["listening"]) == ("0.0.0.0", 4, True)
        ss = lab.server(f"ss -Hltne sport = :{PORT}").stdout
        assert re.search(rf"\bino:{entry['inode']}\b", ss)
        assert entry["limit"] == int(ss.split()[2])
        assert [worker["cpu"] for worker in entry["workers"]] == list(range(lab.cores))
        pids = unit.children()
        assert {worker["pid"] for worker in entry["workers"]} == pids
        for worker in entry["workers"]:
            assert worker["attached"] and worker["limit"] == entry["limit"]
            assert (worker["tid"], worker["command"]) == (worker["pid"], "fsbench-server")
            pinned = lab.server(f"taskset -cp {worker['pid']}").stdout
            assert pinned.endswith(f": {worker['cpu']}\n")
        other = listener(lab, PORT + 1)
        assert (other["address"], other["family"]) == ("fd66::1", 6)
        assert {worker["pid"] for worker in other["workers"]} == pids

        text = lab.server("fsocketctl listeners").stdout
        assert f"0.0.0.0:{PORT} (socket {entry['inode']})\n" in text
        assert f"[fd66::1]:{PORT + 1} (socket {other['inode']})\n" in text
        for worker in entry["workers"]:
            assert re.search(rf"^ +{worker['cpu']} +\d+ +{worker['limit']}  attached +"
                             rf"{worker['pid']}  fsbench-server$", text, re.M)

        # Servers of other network namespaces are not shown, nor processes of other PID namespaces.
        lab.server("ip netns add fsbench")
        try:
            assert json.loads(lab.server("ip netns exec fsbench fsocketctl listeners --json")
                              .stdout) == {"listeners": []}
            assert lab.server("ip netns exec fsbench fsocketctl listeners").stdout == \
                "no listening socket has local listeners\n"
        finally:
            lab.server("ip netns delete fsbench")
        inside = json.loads(lab.server("unshare --fork --pid --mount-proc "
                                       "fsocketctl listeners --json").stdout)["listeners"]
        assert [worker["pid"] for worker in inside[0]["workers"]] == [None] * lab.cores

        # One that dies leaves its local listener parked.
        victim = entry["workers"][3]
        lab.server(f"kill -9 {victim['pid']}")
        eventually(lambda: len(attached(lab, PORT)) == lab.cores - 1)
        assert listener(lab, PORT)["workers"][3] == {
            "cpu": 3, "attached": False, "queued": 0, "limit": entry["limit"],
            "served_by": None,
            "pid": None, "tid": None, "command": None}
    eventually(lambda: ctl(lab, "listeners") == {"listeners": []})


WAITING = """
import socket
all = [socket.create_connection(("10.66.0.1", 80)) for _ in range(60)]
for one in all:
    one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
print(sum(one.recv(99).startswith(b"HTTP/1.0 200") for one in all))
"""


def test_listeners_queues(lab):
    """Connections that wait are seen, wherever they wait: others could take them."""
    with serving(lab, port=80) as unit:
        pids = " ".join(map(str, unit.children()))
        lab.server(f"kill -STOP {pids}")
        try:
            load = lab.start_load(f"python3 -c '{WAITING}'")
            eventually(lambda: sum(worker["queued"] for worker in listener(lab, 80)["workers"])
                       + listener(lab, 80)["queued"] == 60)
        finally:
            lab.server(f"kill -CONT {pids}")
        assert load.communicate(timeout=60)[0] == "60\n"
        assert all(worker["queued"] == 0 for worker in listener(lab, 80)["workers"])


def test_listeners_while_they_come_and_go(lab):
    """The table is read over and over amid load, and workers that die."""
    with serving(lab, port=80) as unit:
        with Unit(lab, "reader", "sh -c 'while cat /proc/net/fastsocket_listeners > /dev/null; "
                  "do :; done'", preload=False):
            load = lab.start_load(ab(3000, 50))
            for pid in sorted(unit.children())[1:]:
                lab.server(f"kill -9 {pid}")
            load.communicate(timeout=120)
            unit.__exit__()
            for _ in range(2):
                serving(lab, port=80).__exit__()


def test_run(lab):
    """The program has the library; its end, its signals and its process are its own."""
    lab.server("journalctl --rotate --vacuum-time=1s", check=False)
    with Unit(lab, "run", f"fsocketctl run {SERVER} -w {lab.cores}", preload=False) as unit:
        effect = f"fsocketctl: Fastsocket is in effect: {lab.cores} local listeners " \
                 f"on {lab.cores} cores\n"
        eventually(lambda: effect in unit.messages())
        main = unit.main()
        assert lab.server(f"cat /proc/{main}/comm").stdout == "fsbench-server\n"
        # The process that has printed this ends.
        eventually(lambda: "fsocketctl" not in lab.server("ps -e -o comm").stdout)
        before = lab.counters()["accept_local"]
        with patience(lab):
            assert figures(lab.loadgen(ab(1000, 50)).stdout) == (1000, 0)
        after = lab.counters()["accept_local"]
        assert sum(after.values()) - sum(before.values()) > 900
        lab.server(f"kill {main}")
        eventually(lambda: "total: " in unit.messages())


def test_run_in_background(lab):
    """A server that makes itself a daemon has an effect, too."""
    lab.server("cat > /run/fsbench-nginx.conf", stdin=nginx("off"))
    try:
        lab.server("fsocketctl run --json nginx -c /run/fsbench-nginx.conf > /run/said 2>&1")
        eventually(lambda: "effect" in lab.server("cat /run/said").stdout)
        assert json.loads(lab.server("cat /run/said").stdout) == {
            "effect": True, "listeners": lab.cores, "cores": lab.cores,
            "text": f"Fastsocket is in effect: {lab.cores} local listeners on {lab.cores} cores"}
    finally:
        lab.server("kill $(cat /run/fsbench-nginx.pid)")
        eventually(lambda: ctl(lab, "listeners") == {"listeners": []})


def test_run_without_effect(lab):
    with serving(lab):
        # Meanwhile, since it has to be waited for.
        static = subprocess.Popen(
            [*lab.server_argv, f"timeout 15 fsocketctl run {SOURCES}/tests/guest/static_program"],
            stderr=subprocess.PIPE, text=True)
        # The server that runs already is not taken for the program.
        done = lab.server("fsocketctl run sh -c 'exit 5'", check=False)
        assert (done.returncode, done.stderr) == (
            5, "fsocketctl: no effect: the program ended without a local listener\n")
        done = lab.server("fsocketctl run sleep 15", check=False)
        assert (done.returncode, done.stderr) == (
            0, "fsocketctl: no effect within 5 s: no worker has spawned a local listener; "
            "fsocketctl doctor and the kernel log may say why, and fsocketctl listeners whether "
            "one does later\n")
        assert lab.server("fsocketctl run /nonexistent", check=False).stderr == \
            "fsocketctl: /nonexistent: No such file or directory\n"
    assert (static.communicate()[1], static.returncode) == (
        "fsocketctl: no effect within 5 s: the program has not loaded the library: "
        "it is static, or set-user-ID, or slow to start\n", 124)
    lab.server("fsocketctl set enable_listen_spawn=0")
    try:
        done = lab.server("fsocketctl run true", check=False)
        assert (done.returncode, done.stderr) == (
            0, "fsocketctl: no effect: local listeners are switched off: "
            "fsocketctl set enable_listen_spawn=2\n")
    finally:
        lab.server("fsocketctl set enable_listen_spawn=2")


def test_man_pages_are_installed(lab):
    lab.server("test -s /usr/local/share/man/man1/fsocketctl.1 && "
               "test -s /usr/local/share/man/man7/libfsocket.7")


def test_without_the_module(lab):
    """Whoever watches is told; a program runs all the same."""
    lab.server("nft flush ruleset")
    missing = "the module is not loaded: load it with: modprobe fastsocket"
    eventually(lambda: ctl(lab, "listeners") == {"listeners": []})
    with Unit(lab, "watch", "sh -c 'fsocketctl watch > /run/watch; echo status $?'",
              preload=False) as unit:
        eventually(lambda: lab.server("test -s /run/watch", check=False).returncode == 0)
        lab.unload_module()
        try:
            eventually(lambda: "status 1" in unit.messages())
            assert missing in unit.messages()
            assert ctl(lab, "status", status=1) == {
                "error": f"{missing}; and no server uses the kernel backend"}
            found = [entry["item"] for entry in ctl(lab, "doctor", status=1)["items"]
                     if entry["state"] == "finding"]
            assert found == ["module"]
            done = lab.server("fsocketctl run sh -c 'exit 4'", check=False)
            assert (done.returncode, done.stderr) == (
                4, f"fsocketctl: no effect: {missing}, or do without: "
                "fsocketctl run --backend=kernel\n")
        finally:
            lab.server("modprobe fastsocket")
