# SPDX-License-Identifier: GPL-2.0-only
"""The playbooks on two hosts, which are guests: an ordinary inventory of ssh, and a user with sudo.

make test-hosts runs this, and make test does not: it makes an image of each Debian release. The
tests of a release are one story, in this order.
"""
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import contract
import measure
import search
import summarise
import verdicts

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
# One that looks for a load that is enough, as an experiment does that is to saturate its server.
SEARCHING = ["setup=shared,fastsocket", "tool=ab", "workers=2", "server_cores=2", "concurrency=20",
             "rounds=1", "count_repetitions=0", "perf_repetitions=0", f"requests={REQUESTS}",
             "warmup_requests=100", "attempts=1", "null=0"]
# Another name for the load generator, with records of its own: to the playbooks it is a second one.
SECOND = """all:
  children:
    loadgen:
      hosts:
        fsb-loadgen-2:
          ansible_host: fsb-loadgen
          ssh_config: SSH_CONFIG
          bench_ssh: [ssh, -F, "{{ ssh_config }}", bench@fsb-loadgen]
          bench_state: /var/lib/fsbench-2
          bench_address: 10.66.0.2
          bench_sources: /usr/local/src/fsbench
          bench_nic: eth0
"""
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
        self.printed = ""

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
        """Runs playbooks; how many tasks reported a change. Their output stays in self.printed."""
        done = subprocess.run(["ansible-playbook", "-i", "inventory/two-guests.yml", *words,
                               *self.options], cwd=ROOT / "playbooks", env=self.environment,
                              capture_output=True, text=True, check=False, timeout=limit)
        print(done.stdout)
        self.printed = done.stdout
        # A sweep in which the other guest has voided all repetitions fails, at its end.
        assert done.returncode == 0 or f"{summarise.NOTHING}: " in done.stdout, (
            done.stdout[-5000:] + done.stderr[-3000:])
        return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))

    def sweep(self, results, *words, experiment="cores", settings=tuple(TINY)):
        given = json.dumps({"sweep_set": settings, "sweep_results": str(results)})
        return self.playbook("run-sweep.yml", "-e", f"experiment={experiment}", "-e", given, *words)

    def assert_as_found(self, before):
        """All settings are what they were, and nothing runs or is loaded."""
        assert self.settings() == before
        assert self.out("server", "systemctl is-active fsbench-demo", check=False) != "active"
        assert self.out("server", "grep -c ^fastsocket /proc/modules", check=False) == "0"
        for host in ("server", "loadgen"):
            assert self.out(host, "sudo ls -d /var/lib/fsbench* /run/fsbench/undo",
                            check=False) == ""


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
    assert hosts.playbook("provision.yml", "install.yml", "tune.yml", "teardown.yml", "--check",
                          "--diff") == 0
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


def test_a_controller_that_crashes_leaves_nothing_changed(hosts, tmp_path):
    """Amid a sweep: the hosts put everything back by themselves."""
    before = hosts.settings()
    given = json.dumps({"sweep_set": [*TINY, "requests=100000"], "sweep_results": str(tmp_path)})
    with subprocess.Popen(
            ["ansible-playbook", "-i", "inventory/two-guests.yml", "run-sweep.yml", "--skip-tags",
             "install,backend", "-e", "experiment=cores", "-e", given, *hosts.options],
            cwd=ROOT / "playbooks", env=hosts.environment, stdout=subprocess.DEVNULL,
            start_new_session=True) as process:
        until(900, lambda: hosts.out("loadgen", "pgrep -x ab", check=False))
        assert hosts.settings() != before
        os.killpg(process.pid, signal.SIGKILL)
    until(120, lambda: hosts.settings() == before)
    until(120, lambda: not hosts.out("loadgen", "pgrep -x ab", check=False))
    hosts.assert_as_found(before)


def until(limit, true):
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end
        time.sleep(1)


def test_a_search_for_enough_load(hosts, tmp_path):
    """To its end, which says what was the limit; of hosts that are as they were, in a minute."""
    before = hosts.settings()
    hosts.sweep(tmp_path, "--skip-tags", "install,backend", experiment="seed-demo",
                settings=SEARCHING)
    run, = (tmp_path / "seed-demo").glob("*Z")
    steps = contract.read_csv(run / "search.csv")
    assert [int(row["step"]) for row in steps] == list(range(1, len(steps) + 1))
    assert {row["setup"] for row in steps} == {"shared", "fastsocket"}
    assert {row["processes"] for row in steps} == {"1", "2"}
    for row in steps:
        assert row["fault"] or float(row["throughput_rps"]) > 0 and row["failed"] == "0"
    entry, = contract.read_run(run)["loads"]
    assert entry["tool"] == "ab" and entry["workers"] == 2
    assert list(entry["limits"]) == ["shared", "fastsocket"]
    for found in entry["limits"].values():
        assert found["limit"] in search.LIMITS and found["rate"] > 0
    for sentence in search.ends(entry, ["shared", "fastsocket"]):
        assert sentence in hosts.printed
    # The repetitions have what it has chosen.
    rows = contract.read_samples(run)
    assert len(rows) == 2
    for row in rows:
        raw, = (run / "raw" / row["cell"]).glob(f"{row['repetition']}*")
        assert (raw / "ab-tool.txt").read_bytes().count(b"This is Ap") == entry["processes"]
    lost = [row for row in rows if row["valid"] == "0"]
    for row in lost:
        assert re.match(f"not saturated|{BUSY}", row["invalid_reason"]), row["invalid_reason"]
    short = [row["setup"] for row in lost if row["invalid_reason"].startswith(
        verdicts.SHORT_OF_LOAD)]
    table = run / "tables/left-out.md"
    assert not lost or all(sentence in table.read_text() for sentence in search.ends(entry, short))
    if len(lost) < 2:
        assert f"A search chose {entry['processes']} process" in (
            run / "tables/with-without.md").read_text()
    hosts.assert_as_found(before)


def test_several_load_generators(hosts, tmp_path):
    (tmp_path / "second.yml").write_text(SECOND.replace(
        "SSH_CONFIG", str(ROOT / f".lab-two-{hosts.release}/ssh_config")))
    hosts.sweep(tmp_path, "-i", tmp_path / "second.yml", "--skip-tags", "install,backend",
                settings=[*TINY, "rounds=1", "processes=1"])
    run, = (tmp_path / "cores").glob("*Z")
    assert len(contract.read_run(run)["loadgens"]) == 2
    for row in contract.read_samples(run):
        # Two loads at one time on one guest.
        assert row["valid"] == "1" or re.match(BUSY, row["invalid_reason"]), row["invalid_reason"]
        assert row["requests"] == str(REQUESTS) and row["failed"] == "0"
        raw, = (run / "raw" / row["cell"]).glob(f"{row['repetition']}*")
        for name in ("ab-tool.txt", "2-ab-tool.txt"):
            assert f"Complete requests:      {REQUESTS // 2}\n" in (raw / name).read_text()
