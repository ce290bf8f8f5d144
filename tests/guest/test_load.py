# SPDX-License-Identifier: GPL-2.0-only
"""Real servers under real load from the other host, with the module and the library."""
import contextlib
import re
import subprocess
import time

import pytest

from conftest import KERNELS, ROOT

PARAMETERS = "/sys/module/fastsocket/parameters"
PRELOAD = "-E LD_PRELOAD=/usr/local/lib/libfsocket.so -E FSOCKET_REQUIRED=1"
UNIT = "fsbench-test"

pytestmark = pytest.mark.usefixtures("quiet_kernel")

# For tests that take long and do not depend on the kernel.
on_one_kernel = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")


class Service:
    """A server in a transient unit of the server host, up and all its workers with it."""

    def __init__(self, lab, command, spawns=None):
        self.lab = lab
        accepts = Accepts(lab)
        spawns = lab.cores if spawns is None else spawns
        lab.server(f"systemctl reset-failed {UNIT} 2> /dev/null; "
                   f"systemd-run -q --collect --unit={UNIT} -p LimitNOFILE=65536 "
                   f"{PRELOAD} {command}")
        deadline = time.monotonic() + 60
        while lab.server("ss -Hltn sport = :80", check=False).stdout == "" or \
                accepts.passed("spawn") < spawns:
            state = lab.server(f"systemctl status {UNIT}; journalctl -n 20 -u {UNIT}",
                               check=False)
            assert time.monotonic() < deadline, state.stdout
            assert lab.server(f"systemctl -q is-active {UNIT}", check=False).returncode == 0, \
                state.stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.server(f"systemctl stop {UNIT}")


def demo(lab, *options, **service):
    return Service(lab, " ".join(["/usr/local/bin/fsbench-server", "-w", str(lab.cores), *options]),
                   **service)


def workers(lab):
    main = lab.server(f"systemctl show -P MainPID {UNIT}").stdout.strip()
    return lab.server(f"cat /proc/{main}/task/{main}/children").stdout.split()


def ab(requests, concurrency, host="10.66.0.1"):
    return f"ulimit -n 8192; ab -q -r -n {requests} -c {concurrency} http://{host}/ 2>&1"


def figures(output):
    """Complete and failed requests."""
    found = re.search(r"^Complete requests: +(\d+)\n(?:Failed requests): +(\d+)", output, re.M)
    assert found, output
    assert "Non-2xx" not in output, output
    return int(found[1]), int(found[2])


class Accepts:
    """How connections were accepted between two moments."""

    def __init__(self, lab):
        self.lab = lab
        self.before = lab.counters()

    def passed(self, column):
        after = self.lab.counters()
        return sum(after[column].values()) - sum(self.before[column].values())


@contextlib.contextmanager
def patience(lab):
    """Workers are not late, by the clock, because this machine is busy and the guest emulated.

    Where it was, 818 of 2,004 connections moved to the shared queue, and no other was there.
    """
    path = f"{PARAMETERS}/steal_after_ms"
    before = lab.server(f"cat {path}; echo 1000 > {path}").stdout.strip()
    try:
        yield
    finally:
        lab.server(f"echo {before} > {path}")


def check_load(lab, requests=2000, concurrency=100, host="10.66.0.1", local=99):
    """Applies load; none may fail, none may wait for a second SYN.

    local: the least share in % that is accepted from the queue of the core that received it.
    """
    accepts = Accepts(lab)
    syns = lab.loadgen_counter("TcpExtTCPSynRetrans")
    with patience(lab):
        done = lab.loadgen(ab(requests, concurrency, host), limit=120 + requests // 500)
    assert figures(done.stdout) == (requests, 0)
    assert lab.loadgen_counter("TcpExtTCPSynRetrans") == syns
    counts = {name: accepts.passed(f"accept_{name}")
              for name in ("local", "covered", "global", "remote")}
    total = sum(counts.values())
    assert total >= requests
    assert 100 * (counts["local"] + counts["covered"]) / total >= local, \
        (counts, accepts.passed("stolen"), accepts.passed("moved"))


@on_one_kernel
def test_provisioning_again_changes_nothing(lab):
    from conftest import playbook
    assert playbook("provision.yml", "install.yml", "tune.yml") == 0


@pytest.mark.parametrize("mode", [1, 2])
def test_accepts_are_local(lab, mode):
    lab.server(f"echo {mode} > /sys/module/fastsocket/parameters/enable_listen_spawn")
    try:
        with demo(lab):
            check_load(lab)
    finally:
        lab.server("echo 2 > /sys/module/fastsocket/parameters/enable_listen_spawn")


def test_spawning_disabled(lab):
    lab.server("echo 0 > /sys/module/fastsocket/parameters/enable_listen_spawn")
    accepts = Accepts(lab)
    try:
        with demo(lab, spawns=0):
            assert figures(lab.loadgen(ab(2000, 100)).stdout) == (2000, 0)
        assert accepts.passed("accept_local") == 0 and accepts.passed("spawn") == 0
    finally:
        lab.server("echo 2 > /sys/module/fastsocket/parameters/enable_listen_spawn")


def test_ipv6(lab):
    with demo(lab, "-a", f"[{lab.address6}]:80"):
        check_load(lab, host=f"[{lab.address6}]")


def test_many_connections(lab):
    with demo(lab):
        check_load(lab, requests=6000, concurrency=2000)


def test_port_reuse(lab):
    """Every SYN soon meets its own 4-tuple in TIME_WAIT."""
    name = "net.ipv4.ip_local_port_range"
    before = lab.loadgen(f"sysctl -n {name}").stdout.split()
    lab.loadgen(f"sysctl -qw {name}='20000 20999'")
    # The kernel keeps only so many, and other tests have left theirs.
    lab.server("ss -K state time-wait > /dev/null")
    try:
        with demo(lab):
            for _ in range(2):
                check_load(lab, requests=2500, concurrency=50)
            waiting = int(lab.server("ss -Htn state time-wait sport = :80 and "
                                     "dport ge :20000 and dport le :20999 | wc -l").stdout)
            assert 300 < waiting <= 1000
    finally:
        lab.loadgen(f"sysctl -qw {name}='{' '.join(before)}'")


def test_worker_killed_under_load(lab):
    """Only what the worker had accepted may fail; its CPU's connections go to the others."""
    with demo(lab):
        victim = workers(lab)[3]
        cpu = int(lab.server(f"taskset -cp {victim}").stdout.split()[-1])
        load = lab.start_load(ab(12000, 100))
        time.sleep(1.5)
        lab.server(f"kill -9 {victim}")
        output, _ = load.communicate(timeout=120)
        complete, failed = figures(output)
        # ab counts a reset once as an error of receiving and once as one of length.
        assert complete == 12000 and failed <= 2 * 100, output
        accepts = Accepts(lab)
        # Another worker serves that CPU now.
        check_load(lab, local=95)
        assert accepts.passed("accept_covered") > 0
        assert lab.counters()["accept_local"][cpu] == accepts.before["accept_local"][cpu]
        assert len(workers(lab)) == lab.cores - 1


def test_unloading(lab):
    """Refused while a server uses the module, under load too; clean once it has stopped."""
    with demo(lab):
        load = lab.start_load(ab(5000, 100))
        time.sleep(0.5)
        for _ in range(5):
            refused = lab.server("rmmod fastsocket", check=False)
            assert refused.returncode != 0 and "in use" in refused.stderr, refused.stderr
        assert figures(load.communicate(timeout=120)[0]) == (5000, 0)
    try:
        lab.server("modprobe fastsocket enable_skb_pool=2")
        with demo(lab):
            load = lab.start_load(ab(30000, 100))
            time.sleep(0.7)
        # Stopped amid the load: connections are still arriving and ending.
        lab.unload_module()
        load.terminate()
        load.communicate()
        assert lab.server("ls /dev/fastsocket", check=False).returncode != 0
    finally:
        lab.server("modprobe fastsocket")


NGINX = """
worker_processes 8;
worker_cpu_affinity auto;
pid /run/fsbench-nginx.pid;
error_log stderr warn;
events { worker_connections 4096; accept_mutex off; }
http {
    access_log off;
    server { listen 80 backlog=65535; return 200 "ok\\n"; }
}
"""


@on_one_kernel
def test_nginx(lab):
    lab.server("cat > /run/fsbench-nginx.conf", stdin=NGINX)
    with Service(lab, "nginx -c /run/fsbench-nginx.conf -g 'daemon off;'"):
        check_load(lab)
        # A reload replaces all workers, and may cost no connection.
        load = lab.start_load(ab(8000, 100))
        time.sleep(0.5)
        lab.server("kill -HUP $(cat /run/fsbench-nginx.pid)")
        assert figures(load.communicate(timeout=120)[0]) == (8000, 0)
        check_load(lab)


HAPROXY = """
global
    nbthread 8
    cpu-map auto:1/1-8 0-7
    maxconn 8000
defaults
    mode http
    timeout connect 10s
    timeout client 10s
    timeout server 10s
    option http-server-close
frontend in
    bind :80
    default_backend out
backend out
    server demo 127.0.0.1:8080
"""


@on_one_kernel
def test_haproxy(lab):
    lab.server("cat > /run/fsbench-haproxy.cfg", stdin=HAPROXY)
    lab.server("systemctl stop fsbench-backend 2> /dev/null; "
               "systemd-run -q --collect --unit=fsbench-backend "
               "/usr/local/bin/fsbench-server -w 8 -a 127.0.0.1:8080")
    try:
        with Service(lab, "haproxy -db -f /run/fsbench-haproxy.cfg"):
            check_load(lab)
    finally:
        lab.server("systemctl stop fsbench-backend")


@on_one_kernel
def test_demo_as_proxy(lab):
    lab.server("systemctl stop fsbench-backend 2> /dev/null; "
               "systemd-run -q --collect --unit=fsbench-backend "
               "/usr/local/bin/fsbench-server -w 8 -a 127.0.0.1:8080")
    try:
        with demo(lab, "-a", "0.0.0.0:80", "-x", "127.0.0.1:8080"):
            check_load(lab)
    finally:
        lab.server("systemctl stop fsbench-backend")


@pytest.fixture
def switches(lab):
    """Sets parameters of the module to their highest values, and switches them off afterwards."""
    order = ["enable_local_established", "enable_direct_tcp", "enable_rps_framework",
             "enable_receive_flow_deliver", "enable_receive_cpu_selection",
             "enable_skb_pool"]

    def switch(name, value):
        lab.server(f"echo {value} > {PARAMETERS}/{name}")

    def on(*names):
        for name in names:
            switch(name, 3 if name == "enable_skb_pool" else 1)

    yield on
    for name in reversed(order):
        switch(name, 0)


@pytest.mark.parametrize("address, host", [("0.0.0.0", "10.66.0.1"), ("[::]", "[fd66::1]")])
def test_direct_tcp(lab, switches, address, host):
    """Packets skip routing if and only if the parameter, or the kernel's sysctl, says so."""
    sysctl = "sysctl -qw net.ipv4.tcp_early_demux="
    lab.server(sysctl + "0")
    try:
        with demo(lab, "-a", f"'{address}:80'"):
            done, moved = lab.counted(lambda: lab.loadgen(ab(2000, 50, host)))
            assert figures(done.stdout) == (2000, 0)
            assert moved["direct_tcp"] == 0
            switches("enable_direct_tcp")
            done, moved = lab.counted(lambda: lab.loadgen(ab(2000, 50, host)))
            assert figures(done.stdout) == (2000, 0)
            assert moved["direct_tcp"] >= 2000
    finally:
        lab.server(sysctl + "1")


def locality(moved):
    """Packets of open connections that came to the connection's core, % of all."""
    hits = moved["established_hit"]
    return 100 * hits / (hits + moved["established_remote"])


def test_passive_connections_are_local(lab, switches):
    """The NIC spreads the packets; each finds its connection where it is handled."""
    switches("enable_local_established")
    with demo(lab):
        done, moved = lab.counted(lambda: lab.loadgen(ab(4000, 100)))
    assert figures(done.stdout) == (4000, 0)
    # At least the request and the FIN.
    assert moved["established_hit"] >= 2 * 4000 and locality(moved) >= 99.9, moved
    assert moved["steer_remote"] == 0


def test_active_connections_are_local(lab, switches):
    """With Receive Flow Deliver a proxy's connections to its backend are local."""
    subprocess.run(["make", "-s", "-C", ROOT / "demo"], check=True)
    backend = lab.start_load(f"exec {ROOT}/demo/server -w 2 -a 10.66.0.2:8080")
    try:
        switches("enable_local_established", "enable_rps_framework")
        with demo(lab, "-a", "0.0.0.0:80", "-x", "10.66.0.2:8080"):
            done, without = lab.counted(lambda: lab.loadgen(ab(2500, 50)))
            assert figures(done.stdout) == (2500, 0)
            switches("enable_receive_flow_deliver")
            done, moved = lab.counted(lambda: lab.loadgen(ab(2500, 50)))
            assert figures(done.stdout) == (2500, 0)
        # The answer to a SYN that comes to another CPU before connect() has noted the flow stays
        # there: 2 to 20 of 16,000 packets on a busy machine. Allow 80.
        assert locality(moved) >= 99.5 and locality(without) < 90, (moved, without)
        assert moved["established_hit"] >= 4 * 2500 and moved["rfd_port"] >= 2500, moved
        assert moved["steer_drop"] == 0, moved
    finally:
        backend.terminate()
        backend.communicate()


def test_everything_on(lab, switches):
    switches("enable_local_established", "enable_direct_tcp", "enable_rps_framework",
             "enable_receive_flow_deliver", "enable_receive_cpu_selection", "enable_skb_pool")
    with demo(lab):
        done, moved = lab.counted(lambda: lab.loadgen(ab(4000, 100)))
    assert figures(done.stdout) == (4000, 0)
    assert moved["steer_drop"] == 0
    assert moved["steer_local"] + moved["steer_remote"] > 4000
    assert moved["skb_pool_send"] + moved["skb_pool_empty"] >= 4000


@on_one_kernel
def test_old_binary(lab):
    """A program of 2014 serves 100,000 connections without one failure, on all workers."""
    folder = "/usr/local/src/fsbench/tests/guest"
    lab.server(f"systemctl reset-failed {UNIT} 2> /dev/null; "
               f"systemd-run -q --unit={UNIT} -p KillMode=process "
               f"-p StandardOutput=file:/run/{UNIT}.out {folder}/old_server 80 {lab.cores}")
    try:
        deadline = time.monotonic() + 30
        while not lab.server("ss -Hltn sport = :80").stdout:
            assert time.monotonic() < deadline
        time.sleep(1)
        # Each child has pinned itself elsewhere than where it spawned.
        check_load(lab, requests=100000)
    finally:
        lab.server(f"systemctl stop {UNIT}", check=False)
    served = [int(line.split()[2]) for line in
              lab.server(f"cat /run/{UNIT}.out; rm /run/{UNIT}.out").stdout.splitlines()]
    assert len(served) == lab.cores and min(served) > 0 and sum(served) == 100000, served
