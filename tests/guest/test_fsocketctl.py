# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl with the module, a server and load; doctor on a lab that is made wrong."""
import json
import re
import subprocess
import time

import pytest
from conftest import KERNELS, SOURCES
from test_load import ab, figures

PARAMETERS = "/sys/module/fastsocket/parameters"
SERVER = "/usr/local/bin/fsbench-server"
PORT = 8081

# On one kernel: what differs between them, the other tests of the guest see.
pytestmark = [pytest.mark.usefixtures("quiet_kernel"),
              pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")]


def ctl(lab, arguments, status=0):
    """What `fsocketctl ARGUMENTS --json` says."""
    done = lab.server(f"fsocketctl {arguments} --json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def eventually(condition, limit=30):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


class Unit:
    """A command in a transient unit of the server host."""

    def __init__(self, lab, name, command, preload=True):
        self.lab, self.name = lab, f"fsbench-{name}"
        environment = "-E LD_PRELOAD=/usr/local/lib/libfsocket.so" if preload else ""
        lab.server(f"systemctl stop {self.name} 2> /dev/null; systemd-run -q --collect "
                   f"--unit={self.name} -p LimitNOFILE=65536 {environment} {command}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.server(f"systemctl stop {self.name}", check=False)

    def main(self):
        return int(self.lab.server(f"systemctl show -P MainPID {self.name}").stdout)

    def children(self):
        main = self.main()
        return {int(pid) for pid in
                self.lab.server(f"cat /proc/{main}/task/{main}/children").stdout.split()}

    def messages(self):
        return self.lab.server(f"journalctl -o cat -u {self.name}").stdout

    def give_up(self):
        """Says what there is to be seen, and stops it, as it would be in the next tests' way."""
        try:
            print(self.lab.server(
                f"fsocketctl listeners; systemctl status --no-pager -n 0 {self.name}; "
                f"journalctl -n 40 -o short-monotonic -u {self.name}; dmesg | tail -40",
                check=False).stdout)
        finally:
            self.__exit__()


def listener(lab, port):
    """What the tool says of the listening socket on the port; None if there is none."""
    found = [entry for entry in ctl(lab, "listeners")["listeners"] if entry["port"] == port]
    assert len(found) <= 1
    return found[0] if found else None


def attached(lab, port):
    entry = listener(lab, port)
    return [worker for worker in entry["workers"] if worker["attached"]] if entry else []


def serving(lab, name="ctl", port=PORT, count=None, options=""):
    """The demo server, when all its workers have local listeners."""
    count = lab.cores if count is None else count
    unit = Unit(lab, name, f"{SERVER} -w {count} {options or f'-a 0.0.0.0:{port}'}")
    try:
        eventually(lambda: len(attached(lab, port)) == count)
    except BaseException:
        unit.give_up()
        raise
    return unit


def value(lab, name):
    return lab.server(f"cat {PARAMETERS}/{name}").stdout.strip()


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


def test_watch(lab):
    """Rates times intervals are what the counters have grown by."""
    requests = 3000
    with serving(lab, port=80):
        before = lab.counters()
        with Unit(lab, "watch", "sh -c 'fsocketctl watch --json 2 > /run/watch'", preload=False):
            with Unit(lab, "table", "sh -c 'fsocketctl watch > /run/table'", preload=False):
                # Both have taken their first look.
                eventually(lambda: lab.server("wc -l < /run/watch").stdout != "0\n")
                assert figures(lab.loadgen(ab(requests, 50)).stdout) == (requests, 0)
                after = lab.counters()
                time.sleep(3)
        lines = [json.loads(line) for line in lab.server("cat /run/watch").stdout.splitlines()]
        text = lab.server("cat /run/table").stdout
    assert len(lines) >= 2
    for line in lines:
        assert set(line) == {"time", "seconds", "cpus"}
        assert 2 <= line["seconds"] < 6
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
    assert total > 0.5 * requests


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

        # Of other network namespaces nothing is seen; of other PID namespaces no process.
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
        assert "fsocketctl" not in lab.server("ps -e -o comm").stdout
        before = lab.counters()["accept_local"]
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
            [*lab.server_argv, f"timeout 6 fsocketctl run {SOURCES}/tests/guest/static_program"],
            stderr=subprocess.PIPE, text=True)
        # The server that runs already is not taken for the program.
        done = lab.server("fsocketctl run sh -c 'exit 5'", check=False)
        assert (done.returncode, done.stderr) == (
            5, "fsocketctl: no effect: the program ended without a local listener\n")
        done = lab.server("fsocketctl run sleep 6", check=False)
        assert (done.returncode, done.stderr) == (
            0, "fsocketctl: no effect within 5 s: no worker has spawned a local listener; "
            "fsocketctl doctor and the kernel log may say why\n")
        assert lab.server("fsocketctl run /nonexistent", check=False).stderr == \
            "fsocketctl: /nonexistent: No such file or directory\n"
    assert (static.communicate()[1], static.returncode) == (
        "fsocketctl: no effect: the program did not load the library: "
        "it is static, or set-user-ID\n", 124)
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


def nginx(mutex, affinity="worker_cpu_affinity auto;"):
    return f"""
        worker_processes 8;
        {affinity}
        pid /run/fsbench-nginx.pid;
        error_log stderr warn;
        # accept_mutex on; in a comment does nothing
        events {{ worker_connections 1024; accept_mutex_delay 100ms; accept_mutex {mutex}; }}
        http {{ access_log off; server {{ listen {PORT + 1}; return 200 "ok"; }} }}
    """


def test_without_the_module(lab):
    """Whoever watches is told; a program runs all the same."""
    lab.server("nft flush ruleset")
    missing = "the module is not loaded: load it with: modprobe fastsocket"
    eventually(lambda: ctl(lab, "listeners") == {"listeners": []})
    with Unit(lab, "watch", "sh -c 'fsocketctl watch > /run/watch; echo status $?'",
              preload=False) as unit:
        eventually(lambda: lab.server("test -s /run/watch", check=False).returncode == 0)
        lab.server("rmmod fastsocket")
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


@pytest.fixture(scope="module")
def server(lab):
    """A server as it should be, beside which the rest is made wrong."""
    # What the image has, or other tests have left.
    lab.server("nft flush ruleset")
    with serving(lab) as unit:
        yield unit


def findings(lab):
    """Items with findings, and the whole report; nothing may have been skipped."""
    done = lab.server("fsocketctl doctor --json", check=False)
    report = json.loads(done.stdout)
    found = [entry["item"] for entry in report["items"] if entry["state"] == "finding"]
    assert done.returncode == (1 if found else 0)
    assert report["findings"] == len(found)
    assert "skipped" not in [entry["state"] for entry in report["items"]], report
    return found, report


def test_doctor_is_content(lab, server):
    found, report = findings(lab)
    assert found == [], report
    text = lab.server("fsocketctl doctor").stdout
    assert re.findall(r"^(\w+)", text, re.M) == ["ok"] * len(report["items"])


# Each call for memory fails once, the later ones of a long run not all.
FAIL_ALLOC = r"""
cd /usr/local/src/fsbench/tests/guest && mark=$(mktemp -u) out=$(mktemp) err=$(mktemp) || exit 1
fsocketctl $command > $out.usual 2>&1; usual=$?
n=1 reported=0 harmless=0
while
    rm -f $mark
    FAIL_AT=$n FAIL_MARK=$mark LD_PRELOAD=./fail_alloc.so fsocketctl $command > $out 2> $err
    got=$?
    [ -e $mark ]
do
    if [ $got != 0 ] && [ $got -lt 126 ] && grep -q '^fsocketctl: .*memory' $err; then
        reported=$((reported + 1))
    elif [ $got = $usual ] && [ ! -s $err ] && { [ -z "$same" ] || cmp -s $out $out.usual; }; then
        harmless=$((harmless + 1))
    else
        echo "call $n for memory fails: status $got"
        cat $out $err
    fi
    n=$((n + 1 + n / 5))
done
rm -f $out $err $out.usual
echo "$reported reported, $harmless harmless"
"""


@pytest.mark.parametrize("command, same", [
    ("status --json", ""), ("listeners --json", "same"), ("doctor", "same"),
    ("set enable_fast_epoll=1", ""), ("run true", "")])
def test_memory_that_fails(lab, server, command, same):
    done = lab.server(f"command='{command}' same={same}\n{FAIL_ALLOC}").stdout
    assert re.fullmatch(r"[1-9]\d* reported, \d+ harmless\n", done), done


def test_doctor_without_servers_or_rights(lab):
    done = lab.server("setpriv --reuid=65534 --clear-groups fsocketctl doctor --json")
    states = {entry["item"]: entry["state"] for entry in json.loads(done.stdout)["items"]}
    assert {item for item, state in states.items() if state == "skipped"} == \
        {"firewall", "workers", "pinning", "cpus"}
    assert set(states.values()) == {"ok", "skipped"}


RECEIVE_IRQS = "$(awk '/virtio[0-9]+-input/ { sub(\":\", \"\", $1); print $1 }' /proc/interrupts)"
FLOWS = "/proc/sys/net/core/rps_sock_flow_entries"
LIBRARY = "/usr/local/lib/libfsocket.so"


def running(name, command, options=""):
    """A command line that runs another in a unit of its own."""
    return f"systemd-run -q --collect --unit=fsbench-{name} {options} {command}; sleep 2"


# Connects where nobody accepts.
FULL = """
import socket, time
listener = socket.create_server(("127.0.0.1", 8098), backlog=0)
while True:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", 8098))
    time.sleep(0.01)
    one.close()
"""
CLOCK = "/sys/devices/system/clocksource/clocksource0/current_clocksource"

# How the host is made wrong, how right again, what doctor has to find, and nothing else.
WRONG = {
    "queues": (
        "ethtool -L eth0 combined 1", "ethtool -L eth0 combined 8",
        "queues", "eth0 has 1 receive queue for 8 cores"),
    "all interrupts on one core": (
        f"for i in {RECEIVE_IRQS}; do echo 1 > /proc/irq/$i/smp_affinity; done",
        f"c=0; for i in {RECEIVE_IRQS}; do echo $c > /proc/irq/$i/smp_affinity_list; "
        "c=$((c + 1)); done",
        "interrupts", "eth0: the interrupts of 8 receive queues go to 1 core: core 0 gets those "
        "of 8, core 1 none"),
    "one interrupt on another's core": (
        f"set -- {RECEIVE_IRQS}; echo 2 > /proc/irq/$4/smp_affinity_list",
        f"set -- {RECEIVE_IRQS}; echo 3 > /proc/irq/$4/smp_affinity_list",
        "interrupts", "eth0: the interrupts of 8 receive queues go to 7 cores: core 2 gets those "
        "of 2, core 3 none"),
    "rps": (
        "echo ff > /sys/class/net/eth0/queues/rx-5/rps_cpus",
        "echo 0 > /sys/class/net/eth0/queues/rx-5/rps_cpus",
        "rps", "eth0: RPS moves the packets of 1 receive queue to other cores"),
    "xps": (
        "for i in 0 1 2 3 4 5 6 7; do echo 0 > /sys/class/net/eth0/queues/tx-$i/xps_cpus; done",
        "m=1; for i in 0 1 2 3 4 5 6 7; do "
        "printf %x $m > /sys/class/net/eth0/queues/tx-$i/xps_cpus; m=$((m * 2)); done",
        "xps", "eth0: 8 of 8 cores have no send queue of their own (XPS), core 0 for one"),
    "one queue without xps": (
        "echo 0 > /sys/class/net/eth0/queues/tx-6/xps_cpus",
        "echo 40 > /sys/class/net/eth0/queues/tx-6/xps_cpus",
        "xps", "eth0: 1 of 8 cores have no send queue of their own (XPS), core 6 for one"),
    "firewall": (
        "nft 'table inet fsbench { chain in { type filter hook input priority 0; "
        "tcp dport 9 drop; }; }'", "nft delete table inet fsbench",
        "firewall", "firewall rules are loaded, and packets pass their 1 chains"),
    "conntrack": (
        "modprobe nf_conntrack", "rmmod nf_conntrack",
        "conntrack", "connection tracking is loaded (0 connections)"),
    "clock": (
        f"echo acpi_pm > {CLOCK}", f"echo tsc > {CLOCK}",
        "clock", "the clock source is acpi_pm"),
    "spawning disabled": (
        "fsocketctl set enable_listen_spawn=0", "fsocketctl set enable_listen_spawn=2",
        "module", "local listeners are switched off: enable_listen_spawn=0"),
    "rfs": (
        f"echo 4096 > {FLOWS}; echo 512 > /sys/class/net/eth0/queues/rx-3/rps_flow_cnt",
        f"echo 0 > {FLOWS}; echo 0 > /sys/class/net/eth0/queues/rx-3/rps_flow_cnt",
        "rfs", "RFS is on for 1 receive queue"),
    "tc": (
        "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress matchall action pass",
        "tc qdisc del dev eth0 clsact",
        "programs", "eth0 has tc filters at its ingress"),
    "irqbalance": (
        "cp /bin/sleep /run/irqbalance; mount -o remount,exec /run; "
        + running("irqbalance", "/run/irqbalance 1000"),
        "systemctl stop fsbench-irqbalance; rm /run/irqbalance",
        "irqbalance", "irqbalance, process "),
    "quota": (
        "systemctl set-property --runtime fsbench-ctl CPUQuota=250%",
        "systemctl set-property --runtime fsbench-ctl CPUQuota=",
        "cpus", f"port {PORT}: the control group of process"),
    "no device": (
        running("blind", "sleep 1000", f"-p PrivateDevices=yes -E LD_PRELOAD={LIBRARY}"),
        "systemctl stop fsbench-blind",
        "preload", "process "),
    "set-user-ID": (
        "cp /bin/sleep /usr/local/bin/fsbench-sleep; chmod 4755 /usr/local/bin/fsbench-sleep; "
        + running("secure", "/usr/local/bin/fsbench-sleep 1000",
                  f"-p User=nobody -E LD_PRELOAD={LIBRARY}"),
        "systemctl stop fsbench-secure; rm /usr/local/bin/fsbench-sleep",
        "preload", "process "),
    "full accept queue": (
        running("full", f"python3 -c '{FULL}'"),
        "systemctl stop fsbench-full",
        "overflows", "an accept queue is full: "),
    "fewer workers than queues": (
        f"systemd-run -q --collect --unit=fsbench-few -E LD_PRELOAD={LIBRARY} "
        f"{SERVER} -w 4 -a 0.0.0.0:8099; until [ $(fsocketctl listeners | grep -c :8099) = 1 ]; "
        "do :; done; sleep 1",
        "systemctl stop fsbench-few",
        "workers", "port 8099 has 4 workers, and 8 cores receive packets"),
    "one worker": (
        f"systemd-run -q --collect --unit=fsbench-one -E LD_PRELOAD=/usr/local/lib/libfsocket.so "
        f"{SERVER} -w 1 -a 0.0.0.0:8099; until fsocketctl listeners | grep -q :8099; do :; done",
        "systemctl stop fsbench-one",
        "workers", "port 8099 is served by one worker"),
}


@pytest.mark.parametrize("case", WRONG)
def test_doctor_finds(lab, server, case):
    wrong, right, item, text = WRONG[case]
    lab.server(wrong)
    try:
        found, report = findings(lab)
    finally:
        lab.server(right)
    assert found == [item], report
    entry = next(entry for entry in report["items"] if entry["item"] == item)
    assert entry["text"].startswith(text) and entry["remedy"], entry
    assert findings(lab)[0] == []


# Connections, one after the other, from each of eight processes.
CLIENTS = """
import os, socket
for _ in range(7):
    if not os.fork():
        break
while True:
    with socket.create_connection(("127.0.0.1", 8099)) as one:
        one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        while one.recv(4096):
            pass
"""


BURST = """
import os, socket
for _ in range(7):
    if not os.fork():
        break
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    one.sendto(b"x", ("127.0.0.1", 9))
"""


def test_doctor_on_locality(lab, server):
    """One worker serves all cores: what arrives on the others comes from the shared queue."""
    with serving(lab, "lone", 8099, 1), \
            Unit(lab, "clients", f"python3 -c '{CLIENTS}'", preload=False):
        eventually(lambda: findings(lab)[0] == ["workers", "locality"])
    assert findings(lab)[0] == []


def test_doctor_on_drops(lab, server):
    """One core gets the loopback's packets, and its backlog takes none but the first."""
    rps, backlog = "/sys/class/net/lo/queues/rx-0/rps_cpus", "/proc/sys/net/core/netdev_max_backlog"
    usual = lab.server(f"cat {backlog}").stdout.strip()
    lab.server(f"echo 1 > {rps}; echo 0 > {backlog}")
    try:
        with Unit(lab, "burst", f"python3 -c '{BURST}'", preload=False):
            eventually(lambda: findings(lab)[0] == ["drops"])
    finally:
        lab.server(f"echo 0 > {rps}; echo {usual} > {backlog}")
    assert findings(lab)[0] == []


def test_doctor_takes_rps_for_the_remedy(lab, server):
    """With too few queues, but RPS to all cores, there is nothing to complain about."""
    lab.server("ethtool -L eth0 combined 2")
    try:
        lab.server("echo ff | tee /sys/class/net/eth0/queues/rx-*/rps_cpus")
        assert findings(lab)[0] == []
        lab.server("echo 7f > /sys/class/net/eth0/queues/rx-1/rps_cpus")
        assert findings(lab)[0] == ["queues"]
    finally:
        lab.server("echo 0 | tee /sys/class/net/eth0/queues/rx-*/rps_cpus; "
                   "ethtool -L eth0 combined 8")
    assert findings(lab)[0] == []


def test_doctor_on_the_governor(lab, server):
    """The lab's cores have none, so it is shown to the tool alone."""
    fake = "mount -t tmpfs none /sys/devices/system/cpu && cd /sys/devices/system/cpu && " \
           "echo 0-7 > online && for i in 0 1 2 3 4 5 6 7; do mkdir -p cpu$i/cpufreq && " \
           "echo performance > cpu$i/cpufreq/scaling_governor; done; "
    ask = "fsocketctl doctor --json"
    done = lab.server(f"unshare --mount sh -c '{fake} {ask}'")
    assert json.loads(done.stdout)["findings"] == 0
    done = lab.server(f"unshare --mount sh -c '{fake} for i in 2 5; do "
                      f"echo powersave > cpu$i/cpufreq/scaling_governor; done; {ask}'", check=False)
    found = [entry for entry in json.loads(done.stdout)["items"] if entry["state"] == "finding"]
    assert done.returncode == 1 and [entry["item"] for entry in found] == ["governor"]
    assert found[0]["text"].startswith(
        "the frequency governor of 2 cores is not performance, but powersave")


def test_doctor_on_pinning(lab, server):
    """A worker whose pin was taken from it; and a server that is not pinned at all."""
    victim = sorted(server.children())[4]
    core = lab.server(f"taskset -cp {victim}").stdout.split()[-1]
    lab.server(f"taskset -cp 0-7 {victim}")
    try:
        found, report = findings(lab)
    finally:
        lab.server(f"taskset -cp {core} {victim}")
    assert found == ["pinning"], report
    assert f"port {PORT}: 1 of 8 workers are not pinned to a core, process {victim} " \
        "(fsbench-server) for one" in [entry["text"] for entry in report["items"]]

    lab.server("fsocketctl set enable_listen_spawn=1")
    lab.server("cat > /run/fsbench-nginx.conf", stdin=nginx("off", affinity=""))
    try:
        with Unit(lab, "nginx", "nginx -c /run/fsbench-nginx.conf -g 'daemon off;'"):
            waiting = f"port {PORT + 1}: 8 of 8 workers are not pinned"
            eventually(lambda: waiting in lab.server("fsocketctl doctor", check=False).stdout)
            assert findings(lab)[0] == ["pinning"]
    finally:
        lab.server("fsocketctl set enable_listen_spawn=2")


def test_doctor_on_the_accept_mutex(lab, server):
    for mutex, found in (("on", ["accept-mutex"]), ("off", [])):
        lab.server("cat > /run/fsbench-nginx.conf", stdin=nginx(mutex))
        with Unit(lab, "nginx", "nginx -c /run/fsbench-nginx.conf -g 'daemon off;'") as unit:
            eventually(lambda: attached(lab, PORT + 1) and len(unit.children()) == 8)
            if mutex == "off":
                eventually(lambda: len(attached(lab, PORT + 1)) == 8)
            assert findings(lab)[0] == found
