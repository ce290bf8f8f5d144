# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl doctor: no finding in a correct lab, and one for each condition that a test breaks."""
import json
import re
import time

import pytest

from conftest import KERNELS
from ctl import (PORT, SERVER, Unit, attached, delivered, eventually, findings, listener, nginx,
                 serving, unpinned)

# On one kernel, since other tests of the guest cover the differences between kernels.
pytestmark = [pytest.mark.usefixtures("quiet_kernel"),
              pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")]


def test_doctor_on_cores_without_a_worker(lab):
    """The first test here, since a worker of any server would make up for its core."""
    lab.server("nft flush ruleset")
    with serving(lab, "few", 8099, 4), delivered(lab):
        # With a worker on each core, nothing is to be moved.
        with serving(lab):
            assert findings(lab)[0] == ["rps"]


@pytest.fixture(scope="module")
def server(lab):
    """A correct server, beside which the tests break one condition each."""
    # Settings of the image, or of earlier tests.
    lab.server("nft flush ruleset")
    with serving(lab) as unit:
        yield unit


def test_doctor_is_content(lab, server):
    found, report = findings(lab)
    assert found == [], report
    text = lab.server("fsocketctl doctor").stdout
    assert re.findall(r"^(\w+)", text, re.M) == ["ok"] * len(report["items"])


# Each call for memory fails once; of the later ones in a long run only some.
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
        {"firewall", "workers", "delivery", "pinning", "cpus"}
    assert set(states.values()) == {"ok", "skipped"}


RECEIVE_IRQS = "$(awk '/virtio[0-9]+-input/ { sub(\":\", \"\", $1); print $1 }' /proc/interrupts)"
FLOWS = "/proc/sys/net/core/rps_sock_flow_entries"
LIBRARY = "/usr/local/lib/libfsocket.so"


def running(name, command, options=""):
    """A command line that runs another in a unit of its own."""
    return f"systemd-run -q --collect --unit=fsbench-{name} {options} {command}; sleep 2"


# Connects to a listener from which no process accepts.
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
# The extended attribute of a file with the capability CAP_NET_RAW: <linux/capability.h>, version 2.
NET_RAW = "01000002" "00200000" + "00" * 12
HAPROXY = r"""global
    nbthread 8
defaults
    mode http
    timeout client 5s
    timeout connect 5s
    timeout server 5s
listen http
    bind :8099
    http-request return status 200
"""

# A command that breaks the host, one that repairs it, and the only findings that doctor may have.
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
    "file capabilities": (
        "cp /bin/sleep /usr/local/bin/fsbench-sleep; python3 -c 'import os; "
        "os.setxattr(\"/usr/local/bin/fsbench-sleep\", \"security.capability\", "
        f"bytes.fromhex(\"{NET_RAW}\"))'; "
        + running("capable", "/usr/local/bin/fsbench-sleep 1000",
                  f"-p User=nobody -E LD_PRELOAD={LIBRARY}"),
        "systemctl stop fsbench-capable; rm /usr/local/bin/fsbench-sleep",
        "preload", "process "),
    "multi-queue": (
        f"printf '{HAPROXY}' > /run/fsbench-haproxy.cfg; "
        + running("haproxy", "haproxy -db -f /run/fsbench-haproxy.cfg",
                  f"-E LD_PRELOAD={LIBRARY}"),
        "systemctl stop fsbench-haproxy; rm /run/fsbench-haproxy.cfg",
        "multi-queue", "HAProxy, process "),
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


def soon(lab, item, text):
    """The findings, and the entry of the item, once that is found: programs start late."""
    deadline = time.monotonic() + 30
    while True:
        found, report = findings(lab)
        entry = next(entry for entry in report["items"] if entry["item"] == item)
        if found == [item] and entry["text"].startswith(text) or time.monotonic() > deadline:
            return found, entry


@pytest.mark.parametrize("case", WRONG)
def test_doctor_finds(lab, server, case):
    wrong, right, item, text = WRONG[case]
    lab.server(wrong)
    try:
        found, entry = soon(lab, item, text)
    finally:
        lab.server(right)
    assert found == [item] and entry["text"].startswith(text) and entry["remedy"], entry
    eventually(lambda: findings(lab)[0] == [])


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
    """One worker serves all cores: connections of the other cores come from the shared queue."""
    with serving(lab, "lone", 8099, 1), \
            Unit(lab, "clients", f"python3 -c '{CLIENTS}'", preload=False):
        eventually(lambda: findings(lab)[0] == ["workers", "locality"])
    eventually(lambda: findings(lab)[0] == [])


def test_doctor_on_drops(lab, server):
    """One core gets the loopback's packets, and its backlog takes only the first."""
    rps, backlog = "/sys/class/net/lo/queues/rx-0/rps_cpus", "/proc/sys/net/core/netdev_max_backlog"
    usual = lab.server(f"cat {backlog}").stdout.strip()
    lab.server(f"echo 1 > {rps}; echo 0 > {backlog}")
    try:
        with Unit(lab, "burst", f"python3 -c '{BURST}'", preload=False):
            eventually(lambda: findings(lab)[0] == ["drops"])
    finally:
        lab.server(f"echo 0 > {rps}; echo {usual} > {backlog}")
    eventually(lambda: findings(lab)[0] == [])


def test_doctor_takes_rps_for_the_remedy(lab, server):
    """Too few queues with RPS to all cores are no finding."""
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
    """The lab's cores have none, so only the tool is shown one."""
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
    """A worker that was unpinned, and a server that is not pinned at all."""
    with unpinned(lab, server) as victim:
        found, report = findings(lab)
    assert found == ["pinning"], report
    assert f"port {PORT}: 1 of 8 workers are not pinned to a core, process {victim} " \
        "(fsbench-server) for one" in [entry["text"] for entry in report["items"]]

    lab.server("fsocketctl set enable_listen_spawn=1")
    lab.server("cat > /run/fsbench-nginx.conf", stdin=nginx("off", affinity=""))
    try:
        with Unit(lab, "nginx", "nginx -c /run/fsbench-nginx.conf -g 'daemon off;'"):
            waiting = f"port {PORT + 1}: 8 of 8 workers are not pinned"
            eventually(lambda: waiting in lab.server("fsocketctl doctor", check=False).stdout)
            eventually(lambda: findings(lab)[0] == ["pinning"])
    finally:
        lab.server("fsocketctl set enable_listen_spawn=2")


def test_doctor_on_the_accept_mutex(lab, server):
    """With the mutex, only the worker that holds it may wait: a lone worker, not attached."""
    for mutex, found in (("on", ["accept-mutex"]), ("off", [])):
        lab.server("cat > /run/fsbench-nginx.conf", stdin=nginx(mutex))
        with Unit(lab, "nginx", "nginx -c /run/fsbench-nginx.conf -g 'daemon off;'") as unit:
            eventually(lambda: listener(lab, PORT + 1) and len(unit.children()) == 8)
            if mutex == "off":
                eventually(lambda: len(attached(lab, PORT + 1)) == 8)
            eventually(lambda: findings(lab)[0] == found)  # pylint: disable=cell-var-from-loop
