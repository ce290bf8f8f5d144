# SPDX-License-Identifier: GPL-2.0-only
"""The playbooks on two hosts, which are guests: an ordinary inventory of ssh, and a user with sudo.

make test-hosts runs this, and make test does not: it makes an image of each Debian release. The
tests of a release are one story, in this order.
"""
import os
import re
import subprocess
from pathlib import Path

import pytest

import contract
import measure

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "playbooks/roles/lab/files/lab.sh"
# Of Debian's releases: the kernel that each has, and whether the module is installed by DKMS.
RELEASES = {"bookworm": ("6.1", False), "trixie": ("6.12", True)}
RELEASE_NAMES = os.environ.get("HOSTS_RELEASES", "bookworm trixie").split()
REQUESTS = 1000
ROUNDS = 2
# A sweep of little: two workers, since a guest has two cores; nothing counted, no perf.
TINY = ["setup=shared,fastsocket", "workers=2", "concurrency=20", f"rounds={ROUNDS}",
        "count_repetitions=0", f"requests={REQUESTS}", "warmup_requests=100", "attempts=1",
        "null=0", "processes=2"]
# In guests that share two cores with each other a repetition may be invalid for these reasons.
BUSY = ("the load generator was the bottleneck|the kernel warned: .*(hrtimer|clocksource)|"
        "other virtual")
# What the playbooks change on a host, as it is.
SETTINGS = ("sysctl net.core.somaxconn net.core.rps_sock_flow_entries net.ipv4.tcp_max_syn_backlog "
            "net.ipv4.tcp_max_tw_buckets net.ipv4.ip_local_port_range; ethtool -l eth0; "
            "grep -s . /sys/class/net/eth0/queues/*/[rx]ps_cpus "
            "/sys/class/net/eth0/queues/*/rps_flow_cnt /proc/irq/*/smp_affinity; true")

pytestmark = pytest.mark.skipif(not os.environ.get("TEST_HOSTS"),
                                reason="make test-hosts runs it: images of its own, emulated")


class TwoGuests:
    """A server and a load generator of one release."""

    def __init__(self, release):
        self.release = release
        self.kernel, self.dkms = RELEASES[release]
        self.environment = {**os.environ, "LAB_EXTRA": f"two-{release}"}
        self.options = ["-e", "install_dkms=true"] if self.dkms else []

    def lab(self, *words, limit=900, **options):
        return subprocess.run([LAB, *words], env=self.environment, timeout=limit, check=False,
                              **options)

    def out(self, host, command, check=True):
        """What a command prints on the host server or loadgen; it may use sudo."""
        words = ["ssh", command] if host == "server" else ["loadgen", command]
        done = self.lab(*words, capture_output=True, text=True, limit=120)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def settings(self):
        return {host: self.out(host, f"sudo sh -c '{SETTINGS}'").splitlines()
                for host in ("server", "loadgen")}

    def playbook(self, *words, limit=2400):
        """Runs playbooks; how many tasks reported a change."""
        done = subprocess.run(["ansible-playbook", "-i", "inventory/two-guests.yml", *words,
                               *self.options], cwd=ROOT / "playbooks", env=self.environment,
                              capture_output=True, text=True, check=False, timeout=limit)
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
        return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))

    def sweep(self, results, *words):
        settings = ", ".join(f'"{setting}"' for setting in TINY)
        return self.playbook("run-sweep.yml", "-e", "experiment=cores", "-e",
                             f'{{"sweep_set": [{settings}], "sweep_results": "{results}"}}', *words)

    def assert_as_found(self, before):
        """All settings are what they were, and nothing runs or is loaded."""
        assert self.settings() == before
        assert self.out("server", "systemctl is-active fsbench-demo", check=False) != "active"
        assert self.out("server", "grep -c ^fastsocket /proc/modules", check=False) == "0"
        for host in ("server", "loadgen"):
            assert self.out(host, "sudo ls /var/lib/fsbench /run/fsbench/undo", check=False) == ""


@pytest.fixture(scope="module", name="hosts", params=RELEASE_NAMES)
def booted_guests(request):
    hosts = TwoGuests(request.param)
    was_up = hosts.lab("status").returncode == 0
    assert hosts.lab("up", "--cpus", "2", "--kernel", hosts.kernel, limit=3600).returncode == 0
    try:
        # Something to be changed, and put back: virtio begins with all its queues.
        hosts.out("server", "sudo ethtool -L eth0 combined 1")
        yield hosts
    finally:
        if not was_up:
            hosts.lab("down")


def test_logged_in_as_a_user(hosts):
    for host in ("server", "loadgen"):
        assert hosts.out(host, "id -un; hostname") == f"bench\nfsb-{host}"


def test_set_up_and_torn_down(hosts):
    before = hosts.settings()
    hosts.assert_as_found(before)
    assert hosts.playbook("provision.yml", "install.yml", "tune.yml") > 0
    server, loadgen = hosts.settings().values()
    assert "net.core.somaxconn = 65535" in server and "Combined:\t2" in server
    assert "net.ipv4.ip_local_port_range = 1024\t65535" in loadgen
    hosts.out("server", "grep ^fastsocket /proc/modules")
    assert hosts.playbook("provision.yml", "install.yml", "tune.yml") == 0
    assert hosts.playbook("teardown.yml") > 0
    hosts.assert_as_found(before)


def test_where_the_module_is(hosts):
    folder = "updates/dkms" if hosts.dkms else "updates"
    release = hosts.out("server", "uname -r")
    assert release.startswith(hosts.kernel + ".")
    found = hosts.out("server", "sudo modinfo -F filename fastsocket")
    assert str(Path(found).parent) == f"/lib/modules/{release}/{folder}"
    if hosts.dkms:
        assert re.search(rf"^fastsocket/.*{re.escape(release)}.*: installed",
                         hosts.out("server", "sudo dkms status"), re.M)
        # With the machine's key, which DKMS has made.
        assert hosts.out("server", "sudo modinfo -F signer fastsocket")


def test_checking_changes_nothing(hosts, tmp_path):
    before = hosts.settings()
    assert hosts.sweep(tmp_path, "--check", "--diff") == 0
    hosts.assert_as_found(before)
    assert not list(tmp_path.iterdir())


def check_row(hosts, run, row):
    assert row["valid"] == "1" or re.match(BUSY, row["invalid_reason"]), row["invalid_reason"]
    assert row["requests"] == str(REQUESTS) and row["failed"] == "0"
    assert float(row["throughput_rps"]) > 0
    raw, = (run / "raw" / row["cell"]).glob(f"{row['repetition']}*")
    with_fastsocket = row["setup"] == "fastsocket"
    state = measure.server_state((raw / "server-state.txt").read_bytes())
    assert sorted(state["workers"].values()) == ["0", "1"]
    assert state["preloaded"] == (2 if with_fastsocket else 0)
    assert state["settings"]["queues eth0"] == "2"
    assert b"Server Hostname:        10.66.0.1" in (raw / "ab-tool.txt").read_bytes()
    if with_fastsocket:
        assert float(row["local_accept_pct"]) > 90 and row["backend"] == "module"
    else:
        assert row["local_accept_pct"] == "" and row["backend"] == ""
    # Both hosts had work, and only the server answered.
    assert float(row["server_busy_pct"]) > 10 and float(row["loadgen_busy_pct"]) > 10


def test_swept(hosts, tmp_path):
    before = hosts.settings()
    assert hosts.sweep(tmp_path) > 0
    run, = (tmp_path / "cores").glob("*Z")
    rows = contract.read_samples(run)
    assert sorted(row["setup"] for row in rows) == ["fastsocket"] * ROUNDS + ["shared"] * ROUNDS
    for row in rows:
        check_row(hosts, run, row)

    facts = contract.read_run(run)
    assert facts["inventory"] == "two-guests.yml" and facts["git_commit"]
    for host in ("server", "loadgen"):
        assert facts[host]["kernel"] == hosts.out(host, "uname -r")
        assert facts[host]["kernel"].startswith(hosts.kernel + ".")
        assert hosts.release in facts[host]["os"]
    assert facts["server"]["module_srcversion"] and "accelerator" not in facts["server"]
    assert "apache2-utils=" in facts["loadgen"]["packages"]
    boot, = facts["boots"]
    assert boot["cores"] == 2
    assert (run / "report.html").exists() and list((run / "tables").glob("*.md"))

    hosts.assert_as_found(before)
    assert hosts.playbook("teardown.yml") == 0
