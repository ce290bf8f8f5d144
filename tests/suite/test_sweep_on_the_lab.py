# SPDX-License-Identifier: GPL-2.0-only
"""A tiny sweep on the lab: killed, stopped, resumed, summarised and drawn."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import contract
import measure
import proc
from conftest import KERNELS

ROOT = Path(__file__).resolve().parents[2]

# On one kernel, since the sweep is the same on each. Also, probes for locks come and go in code
# that eight emulated CPUs run. QEMU 7.2 then sometimes goes on executing a removed breakpoint:
# 6.1 tries once more, and 6.12 panics ("Oops: int3").
pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")

TINY = ["--set", "setup=shared,fastsocket", "--set", "tool=ab", "--set", "concurrency=100",
        "--set", "rounds=2", "--set", "requests=1500", "--set", "warmup_requests=100",
        "--set", "perf_repetitions=1", "--set", "attempts=1", "--set", "count_repetitions=0"]


def hosts(lab, **changes):
    return json.dumps({"inventory": "lab.yml", "lab": True, "address": lab.address,
                       "nic": "eth0", "server": lab.server_argv, "loadgen": [lab.loadgen_argv],
                       "backend": {"program": str(ROOT / ".lab/loadgen-src/demo/server"),
                                   "address": "10.66.0.2:8080",
                                   "state": str(ROOT / ".lab/loadgen-state")}, **changes})


def start(lab, run, **changes):
    return subprocess.Popen([sys.executable, ROOT / "experiments/run.py", run,
                             "--hosts", hosts(lab, **changes)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def plan(results, *args, experiment="seed-demo", tiny=TINY):
    return Path(subprocess.run(
        [sys.executable, ROOT / "experiments/plan.py", experiment, "--results", results,
         *tiny, *args], check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def wait_for_samples(sweep, run, number):
    """Whole rows; the first line is the header. Fails with the output of a sweep that has ended."""
    deadline = time.monotonic() + 100
    path = run / "samples.csv"
    while not path.exists() or path.read_text().count("\n") < number + 1:
        assert sweep.poll() is None, sweep.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def local_or_late(raw):
    """Accepts from the own local listener, and of connections that others took since the worker
    was late, as workers of an emulated guest on a busy machine are; % of all."""
    before, after = (proc.table_sums(proc.sections(
        (raw / f"server-{when}.txt").read_bytes())["/proc/net/fastsocket"])
        for when in ("before", "after"))
    passed = {name: after[name] - before[name] for name in after}
    total = sum(passed[f"accept_{where}"] for where in ("local", "global", "remote", "covered"))
    return 100 * (passed["accept_local"] + passed["stolen"]) / total


def server_runs(lab):
    return lab.server("systemctl -q is-active fsbench-demo", check=False).returncode == 0


def test_killed_stopped_and_resumed(lab, tmp_path):
    run = plan(tmp_path)
    killed = start(lab, run)
    wait_for_samples(killed, run, 1)
    time.sleep(1)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    # Simulate a kill in the middle of writing a row.
    finished = (run / "samples.csv").read_text()
    (run / "samples.csv").write_text(finished + "seed-demo,")

    assert plan(tmp_path) == run
    stopped = start(lab, run)
    wait_for_samples(stopped, run, 2)
    stopped.send_signal(signal.SIGINT)
    output, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, output
    assert "repetitions are left; the same command goes on with them" in output
    assert "Traceback" not in output
    assert not server_runs(lab)

    assert plan(tmp_path) == run
    resumed = start(lab, run)
    output, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, output
    assert "left" in output.splitlines()[-1]
    assert not server_runs(lab)

    assert (run / "samples.csv").read_text().startswith(finished)
    samples = contract.read_samples(run)
    assert [int(row["order"]) for row in samples] == list(range(1, len(samples) + 1))
    assert not contract.unfinished(run)
    good = [(row["cell"], row["repetition"]) for row in samples if row["valid"] == "1"]
    assert len(set(good)) == len(good)
    wanted = {(step["cell"], step["repetition"]) for step in contract.read_plan(run)}
    assert {(row["cell"], row["repetition"]) for row in samples} == wanted

    for row in samples:
        if row["valid"] != "1":
            continue
        assert row["failed"] == "0"
        raw = run / "raw" / row["cell"] / row["repetition"]
        if row["repetition"] == "p1":
            assert float(row["spin_pct"]) >= 0 and row["throughput_rps"] == ""
        else:
            assert float(row["throughput_rps"]) > 0 and row["spin_pct"] == ""
        if row["setup"] == "fastsocket":
            assert local_or_late(raw) >= 99
        else:
            assert row["local_accept_pct"] == ""
        names = {path.name for path in raw.iterdir()}
        assert {"server-state.txt", "server-before.txt", "server-after.txt", "ab-tool.txt",
                "latencies.csv", "percentiles.csv"} <= names
        assert ("perf.data" in names) == (row["repetition"] == "p1")

    facts = contract.read_run(run)
    assert facts["server"]["cores"] == "8" and facts["server"]["accelerator"] in ("tcg", "kvm")
    assert facts["server"]["module_srcversion"] and facts["git_commit"]
    assert len(facts["boots"]) == 1

    for program in ("experiments/summarise.py", "plots/plot.py"):
        subprocess.run([sys.executable, ROOT / program, run], check=True)
    # Other guests of this machine's hypervisor may make every repetition invalid.
    profiled = any(row["spin_pct"] for row in samples if row["valid"] == "1")
    left_out = any(row["valid"] != "1" or row["degraded"] for row in samples)
    assert {"with-without.md", "against.md", "setups.md", *["left-out.md"] * left_out,
            *["spinning.md", "spinning-places.md"] * profiled} == {
        path.name for path in (run / "tables").iterdir()}
    assert (run / "figures/throughput.png").stat().st_size > 5000


# Without the null cell: tests count rows.
FEW = ["--set", "rounds=1", "--set", "requests=1000", "--set", "warmup_requests=100",
       "--set", "attempts=1", "--set", "null=0"]


def finish(lab, run):
    sweep = start(lab, run)
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    return contract.read_samples(run)


def test_proxies(lab, tmp_path):
    """The settings of a repetition are in force while it runs, and gone afterwards."""
    run = plan(tmp_path, "--set", "setup=demo-rfs,haproxy-rfd", "--set", "perf_repetitions=0",
               "--set", "count_repetitions=0", experiment="proxy", tiny=FEW)
    rows = finish(lab, run)
    # In the lab other work may make a repetition invalid, but not for these reasons.
    assert not [row for row in rows if "RFS" in row["invalid_reason"] or "rfs" in
                row["invalid_reason"] or "parameter" in row["invalid_reason"]]
    assert all(int(row["requests"]) >= 1000 for row in rows)
    states = {row["setup"]: measure.server_state(path.read_bytes()) for row in rows
              for path in (run / "raw" / row["cell"]).glob("*/server-state.txt")}
    assert states["demo-rfs"]["chosen"] == {"rfs": "1"}
    assert states["haproxy-rfd"]["chosen"] == {"rfs": "0"}
    name = "enable_receive_flow_deliver"
    assert states["demo-rfs"]["parameters"][name] == "0"
    assert states["haproxy-rfd"]["parameters"][name] == "1"
    assert len(states["haproxy-rfd"]["workers"]) == 8
    assert lab.server("cat /proc/sys/net/core/rps_sock_flow_entries "
                      "/sys/class/net/eth0/queues/rx-*/rps_flow_cnt").stdout.split() == ["0"] * 9
    assert lab.loadgen("ss -Hltn sport = :8080").stdout == ""


def test_the_kernel_backend(lab, tmp_path):
    """The kernel backend is in force although the module is loaded; then the module."""
    run = plan(tmp_path, "--set", "setup=kernel,fastsocket,shared", "--set", "perf_repetitions=0",
               "--set", "count_repetitions=0", experiment="alternatives", tiny=FEW)
    rows = finish(lab, run)
    assert {row["setup"]: row["backend"] for row in rows} == {
        "kernel": "kernel", "fastsocket": "module", "shared": ""}
    assert not [row for row in rows if "in force" in row["invalid_reason"]]


def test_a_server_of_ones_own(lab, tmp_path):
    """A server started by any command: its workers are found, and its answer is checked."""
    run = plan(tmp_path, "--set", "setup=own", "--set", "count_repetitions=0", experiment="own",
               tiny=FEW)
    facts = contract.read_run(run)
    facts["plan"]["setups"]["own"]["command"]["argv"] = ["nginx", "-g", "daemon off;"]
    contract.write_run(run, facts)
    row, = finish(lab, run)
    state = measure.server_state(next(run.glob("raw/own/*/server-state.txt")).read_bytes())
    # Debian's configuration gives each CPU a worker, and pins none.
    assert sorted(state["workers"].values()) == [str(core) for core in range(8)]
    assert row["requests"] == "1000" and "answered" not in row["invalid_reason"]


def test_redis(lab, tmp_path):
    run = plan(tmp_path, "--set", "setup=redis-all", experiment="redis", tiny=FEW)
    rows = finish(lab, run)
    assert all(row["requests"] == "1000" and row["failed"] == "0" for row in rows)
    state = measure.server_state(next(run.glob("raw/*/*/server-state.txt")).read_bytes())
    assert len(state["workers"]) == state["preloaded"] == 8


def test_a_single_worker_has_its_core(lab, tmp_path):
    """One worker has a core of its own, also without the library."""
    run = plan(tmp_path, "--set", "setup=demo,nginx,haproxy", "--set", "workers=1",
               "--set", "concurrency=10", "--set", "count_repetitions=0", experiment="workers",
               tiny=FEW)
    rows = finish(lab, run)
    assert len(rows) == 3 and not [row for row in rows if "workers" in row["invalid_reason"]]


def test_locks_are_seen(lab, tmp_path):
    """Finds contended locks, above all that of the shared listener."""
    run = plan(tmp_path, "--set", "setup=demo", "--set", "perf_repetitions=0", "--set",
               "lock_repetitions=1", "--set", "requests=3000", experiment="seed-perf", tiny=FEW)
    row = [row for row in finish(lab, run) if row["repetition"] == "l1"][-1]
    assert float(row["lock_contended_per_kreq"]) > 0 and float(row["lock_wait_us_per_req"]) > 0
    assert 5 < float(row["syscalls_per_req"]) < 20
    assert row["throughput_rps"] == ""
    places = contract.read_csv(next((run / "raw/demo").glob("l1*/locks.csv")))
    assert "inet_csk_accept" in {place["caller"] for place in places}
    assert "fsbench" not in lab.server("cat /sys/kernel/tracing/kprobe_events").stdout


def test_port_in_use(lab, tmp_path):
    run = plan(tmp_path)
    lab.server("systemd-run -q --collect --unit=fsbench-other /usr/local/bin/fsbench-server -w 1")
    try:
        lab.server("until ss -Hltn sport = :80 | grep -q .; do sleep 0.1; done")
        sweep = start(lab, run)
        output, _ = sweep.communicate(timeout=60)
        assert sweep.returncode == 1
        assert "the port is in use" in output and "Traceback" not in output
        assert contract.read_samples(run) == []
    finally:
        lab.server("systemctl stop fsbench-other")


def test_too_few_cores(lab, tmp_path):
    run = plan(tmp_path)
    facts = contract.read_run(run)
    facts["plan"]["server_cores"] = 99
    contract.write_run(run, facts)
    sweep = start(lab, run)
    output, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert output.startswith("run: the server has 8 cores, and the experiment needs 99")


@pytest.mark.parametrize("full", ["samples", "raw"])
def test_disk_full(lab, tmp_path, full):
    """The message names the fault; finished repetitions are still there afterwards."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small], check=True)
    try:
        run = plan(small)
        filler = small / "filler"
        sweep = start(lab, run)
        if full == "samples":
            wait_for_samples(sweep, run, 1)
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1k"], check=False,
                       capture_output=True)
        output, _ = sweep.communicate(timeout=100)
        assert sweep.returncode == 1
        assert "No space left on device" in output and "Traceback" not in output
        assert not server_runs(lab)
        filler.unlink()
        assert len(contract.read_samples(run)) == (1 if full == "samples" else 0)
        assert contract.unfinished(run)
    finally:
        subprocess.run(["umount", small], check=True)
