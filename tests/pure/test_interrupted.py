# SPDX-License-Identifier: GPL-2.0-only
"""A sweep that is interrupted while it still tunes its hosts. These are stubs, of one machine."""
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import holding
from hosts import Host

# Fixtures.
pytest_plugins = "ansibles"

ROOT = Path(__file__).resolve().parents[2]
STUBS = {
    # As with ssh, what runs on the host does not get the signals of the terminal here.
    "ssh": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case $1 in -C | -tt | -q) shift ;; *) shift 2 ;; esac
done
shift
setsid sh -c "$*"
exit $?
""",
    "nproc": "#!/bin/sh\necho 2\n",
    # To change the number of queues takes the time that a NIC takes.
    "ethtool": """#!/bin/sh
case $1 in
-l) printf 'Combined: 2\\nCombined: %s\\n' "$(cat "$STUBS/queues")" ;;
-L) touch "$STUBS/tuning"; sleep 2; echo "$4" > "$STUBS/queues" ;;
esac
""",
    "systemctl": """#!/bin/sh
case $* in
*is-active*irqbalance) [ -e "$STUBS/irqbalance" ] ;;
"stop irqbalance") rm "$STUBS/irqbalance" ;;
"start irqbalance") touch "$STUBS/irqbalance" ;;
*) false ;;
esac
"""}
INVENTORY = """all:
  vars:
    lab: false
    ansible_become: false
    ansible_ssh_executable: STUBS/ssh
    bench_argv: [STUBS/ssh, "{{ ansible_host }}"]
  children:
    server:
      hosts:
        fsb-server: {ansible_host: 192.0.2.1, bench_address: 192.0.2.1, bench_nic: eth1,
                     bench_state: STUBS/state}
    loadgen:
      hosts:
        fsb-loadgen: {ansible_host: 192.0.2.2, bench_address: 192.0.2.2, bench_nic: eth1,
                      bench_state: STUBS/state-2, bench_sources: STUBS/sources}
"""


class Stubs:
    """Both hosts: the server's NIC eth1 has one queue, and could have two."""

    def __init__(self, folder, ansible):
        self.folder = folder
        for name, text in STUBS.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "hosts.yml").write_text(INVENTORY.replace("STUBS", str(folder)))
        self.queue = folder / "root/sys/class/net/eth1/queues/rx-0/rps_cpus"
        self.queue.parent.mkdir(parents=True)
        self.queue.write_text("0\n")
        (folder / "queues").write_text("1\n")
        (folder / "irqbalance").touch()
        (folder / "root/proc").mkdir()
        (folder / "root/proc/interrupts").touch()
        self.environment = {
            **os.environ, "PATH": f"{folder}:{ansible}/usr/bin:/bin:/usr/sbin:/sbin",
            "STUBS": str(folder), "FSB_ROOT": f"{folder}/root",
            "ANSIBLE_REMOTE_TMP": f"{folder}/tmp"}

    def command(self, tags):
        return ["ansible-playbook", "-i", self.folder / "hosts.yml", "run-sweep.yml", "--tags",
                tags, "-e", f"sweep_results={self.folder}"]

    def settings(self):
        """What tuning changes: queues, RPS, whether irqbalance runs."""
        return [(self.folder / "queues").read_text().strip(), self.queue.read_text().strip(),
                (self.folder / "irqbalance").exists()]

    def sweep(self, tags):
        """The run of the playbook to its end, as far as these tags say."""
        return subprocess.run(self.command(tags), cwd=ROOT / "playbooks", env=self.environment,
                              capture_output=True, text=True, check=False, timeout=300)

    def tuned(self, **environment):
        """The run of the role's script alone, on the server."""
        text = "".join((ROOT / name).read_text() for name in (
            "experiments/host.sh", "playbooks/roles/tune/files/tune.sh"))
        return subprocess.run(["bash", "-s", "--", self.folder / "state", "eth1"], input=text,
                              env={**self.environment, **environment}, capture_output=True,
                              text=True, check=False, timeout=60)

    def records(self):
        return [name for name in ("state", "state-2") if (self.folder / name).exists()]


@pytest.fixture(name="stubs")
def stub_hosts(tmp_path):
    yield from stubs_in(tmp_path, "")


@pytest.fixture(name="both")
def stub_hosts_of_both_releases(tmp_path, ansible):
    """With the Ansible of either release on the controller."""
    yield from stubs_in(tmp_path, ansible)


def stubs_in(tmp_path, ansible):
    yield Stubs(tmp_path, ansible)
    # The locks of sweeps come first: the last hosts to be put back may still hold theirs.
    name = f"fsbench{str(tmp_path).replace('/', '-')}-*"
    for lock in (*Path("/run").glob(f"{name}.sweep.lock"), *Path("/run").glob(f"{name}.lock")):
        subprocess.run(["flock", "-w", "30", lock, "true"], check=False)
    for lock in Path("/run").glob(f"{name}.lock"):
        lock.unlink()


def until(limit, true):
    """Waits until true() holds, up to limit, s; returns whether it does."""
    end = time.monotonic() + limit
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the locks of hosts are root's")
BEFORE, TUNED = ["1", "0", True], ["2", "3", False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_tuning_has_changed_is_put_back(both, number):
    """Ctrl-C reaches all processes of the terminal, the others the playbook alone. What runs on
    the host goes on tuning meanwhile."""
    stubs = both
    with subprocess.Popen(stubs.command("tune"), cwd=ROOT / "playbooks", env=stubs.environment,
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True) as process:
        assert until(120, (stubs.folder / "tuning").exists)
        assert stubs.settings() == ["1", "0", False]
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    # The host is still at it.
    time.sleep(3)
    assert until(30, lambda: stubs.settings() == BEFORE and not stubs.records()), (
        stubs.settings(), stubs.records())


def test_the_next_sweep_puts_back_what_is_on_record(both):
    """Where the hosts could not do it: a sweep that only tunes leaves all as it then is."""
    stubs = both
    assert "changed" in stubs.sweep("tune").stdout
    assert stubs.settings() == TUNED and stubs.records() == ["state"]
    done = stubs.sweep("tune,restore")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stubs.settings() == BEFORE and not stubs.records()


def test_a_second_sweep_is_refused_before_it_changes_anything(stubs, monkeypatch):
    here = Host("the server", ["sh", "-c"], "server.sh")
    held = holding.hold([here], [str(stubs.folder / "state")], True, sweep=True)
    done = stubs.sweep("tune")
    assert done.returncode and ("the server is used by another sweep: wait for its end"
                                in done.stdout), done.stdout
    assert stubs.settings() == BEFORE
    monkeypatch.setenv("PATH", stubs.environment["PATH"])
    holding.release(held, True)


def test_nothing_is_tuned_for_a_sweep_that_is_gone(stubs):
    """What was on its way to the host may come when all has been put back."""
    done = stubs.tuned(FSB_SWEEP="held")
    assert done.returncode and "the sweep was interrupted: nothing more is changed" in done.stderr
    assert stubs.settings() == BEFORE and not stubs.records()


@pytest.mark.parametrize("record, left", [("queues", ["1", "0", False]),
                                          ("sysfs", ["2", "0", False])])
def test_what_cannot_be_recorded_is_not_changed(stubs, record, left):
    """So that all that is changed is on record, whenever tuning dies. A folder takes no record."""
    state = stubs.folder / "state"
    (state / record).mkdir(parents=True)
    (state / "boot").write_text(Path("/proc/sys/kernel/random/boot_id").read_text())
    if record == "queues":
        # The record of queues that is there is not written again.
        (stubs.folder / "ethtool").write_text(
            STUBS["ethtool"].replace("sleep 2;", "kill -KILL $PPID; exit;"))
        (state / record).rmdir()
    assert stubs.tuned().returncode
    assert stubs.settings() == left
    if record == "queues":
        assert (state / record).read_text() == "eth1 1\n" and (state / "irqbalance").exists()


def test_output_that_nobody_else_can_open(stubs):
    """What is to be said after the playbook's end is said to nobody then."""
    ours, its = socket.socketpair()
    with ours, its:
        done = subprocess.run(stubs.command("tune,restore"), cwd=ROOT / "playbooks", check=False,
                              env=stubs.environment, stdout=its, stderr=its, timeout=300)
        assert done.returncode == 0, ours.recv(100000)
    assert stubs.settings() == BEFORE
