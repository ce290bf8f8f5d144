# SPDX-License-Identifier: GPL-2.0-only
"""server.sh on a made-up NIC: RPS moves packets of cores without a worker to workers' cores."""
import subprocess

import pytest

import measure
import places
from study import Study
from test_sweep import ROOT, STATE

# Of eight queues: two cores beyond the first 32, and interrupts in another order than the queues.
CORES = [0, 1, 2, 3, 34, 35, 2, 7]
INTERRUPTS = [40, 41, 42, 43, 44, 45, 39, 38]
WORKERS = """
workers() {{ echo; }}
cores() {{ printf 'worker 1 %s\\n' {}; }}
die() {{ echo "$*" >&2; exit 1; }}
declare -A want=([nic]=eth9 [rps]=workers)
"""


@pytest.fixture(name="shell")
def made_up(tmp_path):
    """Runs commands after server.sh's functions, for which sys and proc are in tmp_path."""
    device = tmp_path / "sys/class/net/eth9/device/msi_irqs"
    device.mkdir(parents=True)
    rows = []
    for queue, (interrupt, core) in enumerate(zip(INTERRUPTS, CORES)):
        (device / str(interrupt)).touch()
        rows.append(f" {interrupt}: 0 7 IR-PCI-MSI-edge mlx5_comp{queue}@pci:0000:3b:00.0\n")
        rows.append(f" {interrupt + 60}: 0 7 IR-PCI-MSI-edge other-comp-{queue}\n")
        for name, text in ((f"proc/irq/{interrupt}/effective_affinity_list", f"{core}\n"),
                           (f"proc/irq/{interrupt}/smp_affinity_list", f"{core}\n"),
                           (f"sys/class/net/eth9/queues/rx-{queue}/rps_cpus", "0,00000000\n")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    (device / "90").touch()
    rows.append(" 90: 0 7 IR-PCI-MSI-edge mlx5_async@pci:0000:3b:00.0\n")
    (tmp_path / "proc/interrupts").write_text("".join(rows))
    functions = (ROOT / "experiments/host.sh").read_text() + \
        (ROOT / "experiments/server.sh").read_text().partition("\ncommand=$1\n")[0]
    for place in ("/sys/", "/proc/", "/run/"):
        functions = functions.replace(place, f"{tmp_path}{place}")
    (tmp_path / "run/fsbench").mkdir(parents=True)

    def run(workers, commands):
        return subprocess.run(["bash", "-c", functions + WORKERS.format(workers) + commands],
                              capture_output=True, text=True, timeout=30, check=False)
    return run


def told(done):
    """The mask of each queue, as numbers, and whether the cores are those of CORES."""
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:3] for row in rows] == [["receives", f"rx-{queue}", str(core)]
                                         for queue, core in enumerate(CORES)]
    return [row[3] for row in rows]


@pytest.mark.parametrize("workers, masks", [
    # Those of 34, 35 and 7 are moved, in turn.
    ("0 1 2 3", "0 0 0 0 1 2 0 4"),
    ("0 34", "0 1 4,00000000 1 0 4,00000000 1 4,00000000"),
    ("0 1 2 3 7 34 35", "0 0 0 0 0 0 0 0"),
    # A worker that may run on several cores has none yet.
    ("0-7", "0 0 0 0 0 0 0 0"),
])
def test_packets_are_moved_to_workers_cores(shell, workers, masks):
    found = told(shell(workers, "set_rps workers; receives"))
    assert [mask.replace("0,00000000", "0") for mask in found] == masks.split()
    assert set(told(shell(workers, "undo; receives"))) == {"0,00000000"}


def test_nothing_is_moved_unless_asked(shell):
    assert set(told(shell("0 1", "set_rps 0; receives"))) == {"0,00000000"}


def test_an_interrupt_that_is_not_known(shell, tmp_path):
    (tmp_path / "proc/irq/44/effective_affinity_list").unlink()
    done = shell("0 1", "set_rps workers")
    assert (done.returncode, done.stderr) == (
        1, "eth9: the interrupt of its receive queue rx-4 is not known, so rps: workers cannot be "
        "set\n")


def test_an_interrupt_that_was_moved_is_read_back(shell, tmp_path):
    """As by irqbalance, during a run; RPS is the same everywhere."""
    def state():
        done = shell("0", "workers() { echo 1; }; in_force() { :; }; rfs() { echo 0; }\nreadback")
        return measure.server_state(done.stdout.encode())

    wanted = {"preload": 0, "workers": 1, "rfs": "0", "rps": 0}
    settings = state()["settings"]
    assert settings["interrupts eth9"] == "0;1;2;3;34;35;2;7"
    assert measure.state_mismatch(state(), wanted, settings) is None
    (tmp_path / "proc/irq/42/smp_affinity_list").write_text("0-3\n")
    assert measure.state_mismatch(state(), wanted, settings) == (
        "interrupts eth9 is 0;1;0-3;3;34;35;2;7, and was 0;1;2;3;34;35;2;7 before")
    # A run that an older version began does not say where they were.
    settings.pop("interrupts eth9")
    assert measure.state_mismatch(state(), wanted, settings) is None


@pytest.mark.parametrize("printed, event", [
    ("5123,,cycles,900,100.00,,", "cycles"), ("<not supported>,,cycles,0,100.00,,", "cpu-clock"),
    ("No permission to enable cycles event.", "cpu-clock")])
def test_cycles_take_samples_where_they_can_be_counted(shell, tmp_path, printed, event):
    """And run.json says it, since without them spinning is a lower bound."""
    (tmp_path / "perf").write_text(f"#!/bin/sh\necho '{printed}' >&2\n")
    (tmp_path / "perf").chmod(0o755)
    (tmp_path / "proc/cmdline").touch()
    done = shell("0", f"PATH={tmp_path}:$PATH; end_perf() {{ :; }}; enable() {{ :; }}\n"
                 'prepare() { echo "$@"; }; host_facts() { :; }; perf_start; '
                 "facts lo | grep profile_event")
    assert done.stdout.splitlines() == [
        f"perf record -q -a -g -F 499 -e {event}", f"profile_event {event}"], done.stderr
    study = object.__new__(Study)
    for facts, blind in (({"profile_event": event}, event == "cpu-clock"), ({}, True)):
        study.facts = {"server": facts}
        assert study.blind() == blind
        assert places.bound(study).endswith("at least") == blind


QUEUES = ("receives rx-0 0 0,00000000\nreceives rx-1 1 0\nreceives rx-2 2 00,00000001\n"
          "receives rx-3 3 2\n")
TUNED = "".join(f"receives rx-{i} {i} f\n" for i in range(4))


@pytest.mark.parametrize("wanted, queues, complaint", [
    ("workers", QUEUES, None),
    (0, QUEUES, "RPS moves the packets of some receive queues, and no setup asks for that"),
    (0, TUNED, None), (0, TUNED.replace(" f", " 0"), None), (0, "", None),
    ("workers", "", "rps is workers, and the server has no receive queues that RPS knows"),
    ("workers", QUEUES.replace("rx-1 1 0", "rx-1 1 1"),
     "RPS moves the packets of rx-1 away from core 1, which has a worker"),
    *(("workers", QUEUES.replace("rx-3 3 2", f"rx-3 {core} {cpus}"),
       f"RPS does not move the packets of rx-3, on core {core}, to one worker's core")
      # To none, to a core without a worker, to two; and by an interrupt that is not known.
      for core, cpus in ((3, 0), (3, 4), (3, 3), ("-", 0))),
])
def test_packet_steering_is_read_back(wanted, queues, complaint):
    state = measure.server_state((STATE + queues).encode())
    words = {"preload": 1, "workers": 2, "rfs": 0, "rps": wanted}
    assert measure.state_mismatch(state, words, state["settings"]) == complaint
