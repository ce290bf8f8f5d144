# SPDX-License-Identifier: GPL-2.0-only
"""Queues and workers take the cores that are near the NIC, on hosts unlike the lab."""
import itertools
import os
import shutil
import subprocess

import pytest

import conditions
import measure
import run as runner
import servers
from test_interrupted import stub_hosts  # noqa: F401 a fixture
from test_steering import made_up  # noqa: F401 a fixture
from test_sweep import ROOT

HOST = ROOT / "experiments/host.sh"
# {host: (CPUs online, CPUs of each core, {node: CPUs}, the NIC's node, the order)}
HOSTS = {
    "the lab": ("0-3", ["0", "1", "2", "3"], {0: "0-3"}, None, "0 1 2 3"),
    "a NIC without a node": ("0-3", ["0", "1", "2", "3"], {0: "0-1", 1: "2-3"}, -1, "0 1 2 3"),
    "many cores": ("0-11", [str(cpu) for cpu in range(12)], {0: "0-11"}, 0,
                   "0 1 2 3 4 5 6 7 8 9 10 11"),
    "the other node": ("0-7", ["0,4", "1,5", "2,6", "3,7"], {0: "0-1,4-5", 1: "2-3,6-7"}, 1,
                       "2 3 0 1 6 7 4 5"),
    "nodes in turn": ("0-3", ["0", "1", "2", "3"], {0: "0,2", 1: "1,3"}, 1, "1 3 0 2"),
    "siblings in turn": ("0-5", ["0-1", "2-3", "4-5"], {0: "0-5"}, 0, "0 2 4 1 3 5"),
    "siblings off": ("0,2,4", ["0", "2", "4"], {0: "0,2,4"}, 0, "0 2 4"),
}


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def host(root, name):
    """Returns the order of its cores."""
    online, cores, nodes, node, order = HOSTS[name]
    cpus = root / "sys/devices/system/cpu"
    put(cpus / "online", online)
    for siblings in cores:
        for cpu in siblings.replace("-", ",").split(","):
            put(cpus / f"cpu{cpu}/topology/thread_siblings_list", siblings)
    for number, own in nodes.items():
        put(root / f"sys/devices/system/node/node{number}/cpulist", own)
    if node is not None:
        put(root / "sys/class/net/eth1/device/numa_node", node)
    return order.split()


def printed(root):
    """The order that core_order() prints for eth1."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", f". {HOST}; core_order eth1"],
                          env={**os.environ, "FSB_ROOT": str(root)}, capture_output=True,
                          text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("name", HOSTS)
def test_one_thread_of_each_core_then_the_nodes(tmp_path, name):
    order = host(tmp_path, name)
    assert printed(tmp_path) == order


def test_the_node_of_a_virtio_device_is_its_parents(tmp_path):
    host(tmp_path, "nodes in turn")
    device = tmp_path / "sys/class/net/eth1/device"
    shutil.rmtree(device)
    (tmp_path / "sys/devices/pci/virtio3").mkdir(parents=True)
    put(tmp_path / "sys/devices/pci/numa_node", "1")
    device.symlink_to(tmp_path / "sys/devices/pci/virtio3")
    assert printed(tmp_path) == ["1", "3", "0", "2"]


@pytest.mark.parametrize("cores, expected", [
    ([0], "1"), ([34], "4,00000000"), ([0, 1, 2, 3], "f"), (range(40), "ff,ffffffff"),
    ([1, 70], "40,00000000,00000002")])
def test_masks(cores, expected):
    done = subprocess.run(["bash", "-c", f'. {HOST}; mask "$@"', "-", *map(str, cores)],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def has_queues(root, number):
    """Queues of eth1, the interrupts of which any of four cores gets so far."""
    for queue in range(number):
        put(root / f"sys/class/net/eth1/queues/rx-{queue}/rps_cpus", "0")
        put(root / f"sys/class/net/eth1/queues/tx-{queue}/xps_cpus", "0")
        put(root / f"sys/class/net/eth1/device/msi_irqs/{9000 + queue}", "msix")
        put(root / f"proc/irq/{9000 + queue}/smp_affinity", "f")
    (root / "proc/interrupts").write_text("".join(
        f" {9000 + queue}: 1 1 PCI-MSI 1-edge eth1-TxRx-{queue}\n" for queue in range(number)))


@pytest.mark.skipif(os.geteuid() != 0, reason="the locks of hosts are root's")
@pytest.mark.parametrize("name, queues", [("the lab", 4), ("nodes in turn", 4),
                                          ("nodes in turn", 2), ("nodes in turn", 6),
                                          ("siblings in turn", 6)])
def test_queues_are_near_the_nic(stubs, name, queues):
    root = stubs.folder / "root"
    order = list(map(int, host(root, name)))
    has_queues(root, queues)
    (stubs.folder / "ethtool").write_text("#!/bin/sh\nexit 1\n")
    done = stubs.tuned()
    assert done.returncode == 0, done.stderr
    net = root / "sys/class/net/eth1/queues"
    full = queues >= len(order)
    for queue, core in zip(range(queues), itertools.cycle(order)):
        mask = f"{1 << core:x}\n"
        assert (root / f"proc/irq/{9000 + queue}/smp_affinity").read_text() == mask
        assert (net / f"tx-{queue}/xps_cpus").read_text() == (mask if full else "0\n")
        assert (net / f"rx-{queue}/rps_cpus").read_text() == (
            "0\n" if full else f"{sum(1 << core for core in order):x}\n")
    assert "is not on core" not in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="the locks of hosts are root's")
def test_an_interrupt_that_nobody_can_move(stubs):
    root = stubs.folder / "root"
    host(root, "nodes in turn")
    has_queues(root, 4)
    (stubs.folder / "ethtool").write_text("#!/bin/sh\nexit 1\n")
    # What is written there is lost.
    (root / "proc/irq/9001/smp_affinity").unlink()
    (root / "proc/irq/9001/smp_affinity").symlink_to("/dev/null")
    warnings = [line for line in stubs.tuned().stdout.splitlines() if "is not on core" in line]
    assert len(warnings) == 1 and warnings[0].startswith(
        "warning: interrupt 9001 of eth1 is not on core 3 alone, and cannot be moved there: ")


# More than three workers would have core 0, too.
ORDER = (9, 3, 10, 0)


@pytest.mark.parametrize("setup, words", [
    ({"server": "demo"}, "-w 3 -c 3,9,10"),
    ({"server": "demo-proxy"}, "-w 3 -c 3,9,10 -x 192.0.2.2:8080"),
    ({"server": "nginx"}, "worker_cpu_affinity auto 11000001000;"),
    ({"server": "haproxy"}, "cpu-map auto:1/1-3 3 9 10\n"),
    ({"server": "haproxy"}, "taskset -c 3,9,10 haproxy"),
    ({"server": "redis"}, "- 6379 3 9 10")])
def test_servers_get_the_cores_of_the_first_queues(setup, words):
    server = servers.of(setup)
    for order in (ORDER, ()):
        work = servers.Work(setup, 3, "192.0.2.2:8080", order)
        text = (server.config(work) or "") + " ".join(map(str, server.program(work)))
        assert (words in text) == bool(order), text


def test_instances_have_a_core_and_a_port_each(tmp_path):
    (tmp_path / "taskset").write_text("#!/bin/sh\necho $2 $5\n")
    (tmp_path / "taskset").chmod(0o755)
    for order, told in ((ORDER, ["3 6379", "9 6380"]), ((), ["0 6379", "1 6380"])):
        setup = {"server": "redis"}
        work = servers.Work(setup, 2, "192.0.2.2:8080", order)
        done = subprocess.run([str(word) for word in servers.of(setup).program(work)], check=True,
                              env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True,
                              text=True)
        assert sorted(done.stdout.splitlines()) == told


def test_workers_have_to_be_there():
    sweep = object.__new__(runner.Sweep)
    sweep.parameters, sweep.nic, sweep.backend = {}, "eth1", {"address": "192.0.2.2:8080"}
    assert "cores" not in sweep.state({}, 2)
    sweep.order_of_cores = ORDER
    wanted = sweep.state({}, 3)
    assert wanted["cores"] == "3,9,10"
    state = "worker 5 10\nworker 6 {}\nworker 7 9\npreloaded 0\nchosen rfs 0\n"
    for core, complaint in ((3, None), (
            0, "workers run on cores 10 0 9, not one on each of 3,9,10")):
        found = measure.server_state(state.format(core).encode())
        assert measure.state_mismatch(found, wanted, {}) == complaint


def test_the_load_is_that_of_the_workers_cores():
    before = {"/proc/stat": b"ctxt 0\ncpu0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0\n"}
    after = {"/proc/stat": b"ctxt 9\ncpu0 5 0 0 95 0 0 0 0\ncpu1 90 0 0 10 0 0 0 0\n"}
    for cores, busy in (([1], 90), ([0], 5), ([0, 1], 47.5)):
        assert measure.server_load(cores, before, after, 1)["server_busy_pct"] == busy


def test_the_order_is_a_fact_of_the_boot():
    server = {"cores": "2", "core_order": "1 0"}
    plan = {"server_cores": "workers", "factors": {"workers": [1, 2]}}
    assert conditions.check_cores(plan, server, [{"workers": "2"}]) == {
        "cores": 2, "core_order": "1 0"}


PRETENDED = """
host_facts() { :; }; profile_event() { :; }; packages() { :; }; perf() { :; }
stop() { :; }; set_parameters() { :; }; set_rfs() { :; }; ready() { :; }; set_rps() { :; }
readback() { :; }; module_used() { :; }; nproc() { echo 3; }
systemd-run() { echo "$@"; }
start_with() {
    start server=x port=1 listeners=1 preload=0 library=module rfs=0 rps=0 config= "$@" -- p
}
"""


@pytest.mark.parametrize("order, told", [("0 1 2", ""), ("0 2 1", "core_order 0 2 1\n")])
def test_the_order_is_told_if_it_is_another(shell, tmp_path, order, told):
    (tmp_path / "proc/cmdline").touch()
    done = shell("0", PRETENDED + f"core_order() {{ printf '%s\\n' {order}; }}; facts lo | "
                 "grep core_order || true")
    assert done.stdout == told, done.stderr


@pytest.mark.parametrize("word, pinned", [("", "0 1"), ("cores=3,9", "3 9")])
def test_a_server_that_does_not_pin_its_workers(shell, word, pinned):
    """It is started on the workers' cores, and each worker gets one of them."""
    done = shell("0-9", PRETENDED + 'taskset() { echo "$2"; }; pin() { :; }\n'
                 f"start_with workers=2 {word}")
    assert ("-p CPUAffinity=3,9" in done.stdout) == bool(word), done.stderr
    done = shell("0-9", 'taskset() { echo "$2" >&2; }\n'
                 f"want[workers]=2; [ -z '{word}' ] || want[cores]={word[6:]}; pin 5 6")
    assert done.stderr.split() == pinned.split()
