# SPDX-License-Identifier: GPL-2.0-only
"""The sweep's programs on files alone: plan, parse, resume, summarise, draw."""
import csv
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import contract
import measure
import plan

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "setup=shared,fastsocket", "--set", "tool=ab", "--set", "concurrency=100",
        "--set", "rounds=3"]


def program(name, *args):
    return subprocess.run([sys.executable, ROOT / name, *map(str, args)], capture_output=True,
                          text=True, check=False)


def planned(results, *args):
    done = program("experiments/plan.py", "seed-demo", "--results", results, *args)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("args, sentence", [
    (["seed-dmo"], "plan: experiment seed-dmo: there is none of that name: "
                   "give one of seed-demo, seed-demo-16\n"),
    (["seed-demo", "--profile", "fast"], "plan: profile fast: there is none of that name: "
                                         "give one of full, quick\n"),
    (["seed-demo", "--set", "worker=4"], "plan: factor or profile key worker: there is none"),
    (["seed-demo", "--set", "setup=slow"], "plan: setup slow: there is none of that name: "
                                           "give one of cbpf, exclusive, fastsocket"),
    (["seed-demo", "--set", "workers=9"], "plan: workers 9: more than the server's cores, 8"),
    (["seed-demo", "--set", "concurrency=0"], "plan: concurrency 0: give whole numbers"),
    (["seed-demo", "--set", "rounds=x"], "plan: rounds=x: give one whole number"),
])
def test_bad_plans(tmp_path, args, sentence):
    done = program("experiments/plan.py", *args, "--results", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(sentence), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_misspelled_parameter(monkeypatch):
    experiment = plan.load("seed-demo")
    experiment["setups"]["fastsocket"]["parameters"] = {"enable_listen_spwan": 1}
    with pytest.raises(plan.PlanError, match="parameter enable_listen_spwan.*enable_listen_spawn"):
        plan.check(experiment)


def test_rounds_hold_every_cell_once_shuffled(tmp_path):
    run = planned(tmp_path, "--set", "rounds=5",
                  "--set", "perf_repetitions=3", "--seed", 7)
    steps = contract.read_plan(run)
    cells = sorted({step["cell"] for step in steps})
    assert len(cells) == 15
    orders = []
    for number in range(5):
        one = steps[number * 15:(number + 1) * 15]
        assert {step["repetition"] for step in one} == {str(number + 1)}
        assert sorted(step["cell"] for step in one) == cells
        orders.append([step["cell"] for step in one])
    assert len(set(map(tuple, orders))) == 5
    assert [step["repetition"] for step in steps[75:]] == ["p1", "p1", "p2", "p2", "p3", "p3"]


def test_the_seed_decides_the_order(tmp_path):
    runs = [planned(tmp_path / str(i), "--seed", seed) for i, seed in enumerate([1, 1, 2])]
    texts = [(run / "plan.csv").read_text() for run in runs]
    assert texts[0] == texts[1] != texts[2]


def sample(run, step, order, rps, valid=1, **more):
    columns = contract.sample_columns(contract.read_run(run)["plan"]["factors"])
    path = run / "samples.csv"
    if not path.exists():
        path.write_text(",".join(columns) + "\n")
    row = {**step, "experiment": "seed-demo", "run": run.name, "order": order, "valid": valid,
           "throughput_rps": rps, **more}
    with open(path, "a", encoding="utf-8") as file:
        file.write(contract.csv_line(row, columns))


def fill(run, rates, boots=((1,))):
    """Finishes every repetition; rates[setup][round]."""
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": str(first), "first_order": first} for first in boots]
    contract.write_run(run, facts)
    for order, step in enumerate(contract.read_plan(run), 1):
        if step["repetition"].startswith("p"):
            sample(run, step, order, None, spin_pct=20 if step["setup"] == "shared" else 1)
        else:
            sample(run, step, order, rates[step["setup"]][int(step["repetition"]) - 1],
                   time_s=1, latency_p50_ms=5, latency_p90_ms=6, latency_p99_ms=7)


def test_resuming(tmp_path):
    run = planned(tmp_path, *TINY)
    assert planned(tmp_path, *TINY) == run
    steps = contract.read_plan(run)
    sample(run, steps[0], 1, 100)
    sample(run, steps[1], 2, 100, valid=0)
    left = contract.unfinished(run)
    # Of an invalid one, attempts are left.
    assert len(left) == len(steps) - 1 and left[0] == steps[1]
    for order in (3, 4):
        sample(run, steps[1], order, 100, valid=0)
    assert contract.unfinished(run)[0] == steps[2]
    # Another plan is another run.
    assert planned(tmp_path, *TINY, "--set", "requests=5") != run
    assert planned(tmp_path, *TINY) == run
    assert planned(tmp_path, *TINY, "--fresh") != run


def test_a_finished_run_is_not_resumed(tmp_path):
    run = planned(tmp_path, *TINY)
    fill(run, {"shared": [1, 1, 1], "fastsocket": [1, 1, 1]})
    assert not contract.unfinished(run)
    shutil.move(run, run.with_name("20260101T000000Z"))
    assert planned(tmp_path, *TINY).name != "20260101T000000Z"


def summary_of(run):
    done = program("experiments/summarise.py", run)
    assert done.returncode == 0, done.stderr
    rows = contract.read_csv(run / "summary.csv")
    return done.stdout, {row["cell"]: row for row in rows}


def test_summary(tmp_path):
    run = planned(tmp_path, *TINY)
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    # An invalid repetition, however good, is counted and not averaged in.
    sample(run, contract.read_plan(run)[0], 99, 10 ** 6, valid=0)
    output, rows = summary_of(run)
    ours, base = rows["fastsocket"], rows["shared"]
    assert float(ours["throughput_rps"]) == 260 and float(base["throughput_rps"]) == 200
    assert float(ours["throughput_rps_lo"]) == 150 and float(ours["throughput_rps_hi"]) == 600
    # Pairs of rounds: 1.5, 1.3, 1.5
    assert float(ours["throughput_rps_ratio"]) == 1.5
    assert float(base["throughput_rps_ratio"]) == 1
    assert float(ours["spin_pct"]) == 1 and float(base["spin_pct"]) == 20
    assert ours["connect_p99_ms"] == ""
    assert int(ours["n_invalid"]) + int(base["n_invalid"]) == 1
    assert "1.50 [1.30–1.50]" in output and "4.736 s" in output
    assert set(path.name for path in (run / "tables").iterdir()) == {
        "with-without.md", "alternatives.md", "spinning.md"}
    assert (tmp_path / "latest").resolve() == run.resolve()
    # From the same samples the same bytes.
    first = (run / "summary.csv").read_bytes()
    summary_of(run)
    assert (run / "summary.csv").read_bytes() == first


def test_repetitions_of_different_boots_are_not_compared(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0", "--seed", 3)
    # The second boot begins in the middle of round 2.
    fill(run, {"shared": [100, 100, 100], "fastsocket": [150, 900, 150]}, boots=(1, 4))
    _, rows = summary_of(run)
    assert float(rows["fastsocket"]["throughput_rps_ratio_hi"]) == 1.5


def test_figures(tmp_path):
    run = planned(tmp_path, *TINY)
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    for setup in ("shared", "fastsocket"):
        raw = run / "raw" / setup / "1"
        raw.mkdir(parents=True)
        (raw / "requests.tsv.xz").write_bytes(lzma.compress(
            b"starttime\tseconds\tctime\tdtime\tttime\twait\n"
            + b"".join(b"x\t1\t1\t2\t%d\t1\n" % n for n in range(100))))
    summary_of(run)
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("throughput", "latency", "ab-latency-100")
                       for kind in ("png", "svg")}
    for path in (run / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_counters():
    before = measure.snmp(b"Tcp: A RetransSegs\nTcp: 1 2\nTcpExt: X ListenOverflows\nTcpExt: 0 7\n")
    assert before == {"TcpA": 1, "TcpRetransSegs": 2, "TcpExtX": 0, "TcpExtListenOverflows": 7}


def test_busy_shares():
    before = b"cpu  9 9\ncpu0 10 0 10 100 0 0 0 0 5 0\ncpu1 0 0 0 50 50 0 0 0 0 0\nintr 1\n"
    after = b"cpu  9 9\ncpu0 40 0 30 150 0 0 0 0 9 0\ncpu1 0 0 0 50 50 0 0 0 0 0\nintr 1\n"
    assert measure.busy_shares(before, after) == {0: 50, 1: None}


def test_spin_share_is_of_what_is_not_idle():
    report = (b"    60.00%  [k] native_safe_halt        -      -\n"
              b"    10.00%  [k] native_queued_spin_lock_slowpath  -  -\n"
              b"    30.00%  [k] tcp_ack\n")
    assert measure.spin_share(report) == 25


WRK = b"""Running 2s test @ http://10.66.0.1/
  1 threads and 100 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    24.32ms   10.05ms   1.02s    75.00%
    Req/Sec     3.77k   392.40     4.51k    60.00%
  Latency Distribution
     50%   22.50ms
     75%   29.00ms
     90%  950.00us
     99%    1.10s
  7523 requests in 2.00s, 1.24MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
Requests/sec:   3757.11
Transfer/sec:    634.11KB
"""


def test_wrk_output():
    metrics, reason = measure.wrk({"tool": WRK})
    assert reason is None
    assert metrics == {"requests": 7523, "failed": 10, "time_s": 2, "throughput_rps": 3757.11,
                       "latency_p50_ms": 22.5, "latency_p90_ms": 0.95, "latency_p99_ms": 1100,
                       "latency_max_ms": 1020}


def test_tools_that_fail():
    for parse in (measure.ab, measure.wrk):
        metrics, reason = parse({"tool": b"connect: Connection refused (111)\n"})
        assert metrics == {} and "Connection refused" in reason


STATE = "worker 7 0\nworker 8 1\npreloaded 2\nparameter p 2\nsysctl net.a 5\nqueues eth0 2\n"


@pytest.mark.parametrize("change, complaint", [
    (("", ""), None),
    (("worker 8 1", "worker 8 0-1"), "workers run on cores"),
    (("worker 8 1", "worker 8 0"), "workers run on cores"),
    (("preloaded 2", "preloaded 1"), "1 of 2 workers have libfsocket.so loaded"),
    (("p 2", "p 1"), "parameter p is 1, not 2"),
    (("eth0 2", "eth0 1"), "queues eth0 is 1, and was 2 before"),
])
def test_state_is_checked(change, complaint):
    settings = measure.server_state(STATE.encode())["settings"]
    state = measure.server_state(STATE.replace(*change).encode() if change[0] else STATE.encode())
    found = measure.state_mismatch(state, {"preload": True, "parameters": {"p": 2}}, 2, settings)
    assert (found or "").startswith(complaint or "") and bool(found) == bool(complaint)


def counters(ticks, overflows=0, accepts=0, warnings=b""):
    return {
        "/proc/stat": b"cpu0 %d 0 0 0 0 0 0 0\ncpu1 %d 0 0 0 0 0 0 0\nctxt %d\n" % (
            ticks, ticks, ticks),
        "/proc/net/snmp": b"Tcp: RetransSegs\nTcp: 0\n",
        "/proc/net/netstat": b"TcpExt: ListenOverflows\nTcpExt: %d\n" % overflows,
        "/proc/net/fastsocket": b"cpu accept_local accept_global accept_remote\n0 %d 0 1\n"
                                % accepts,
        "kernel warnings": warnings}


def load(syns=0, failed=0, busy=0.5, idle=0, stolen=0):
    def part(ticks, retransmitted):
        return (b"Tcp: RetransSegs\nTcp: %d\nTcpExt: TCPSynRetrans\nTcpExt: %d\n"
                b"cpu0 %d 0 0 %d 0 0 0 %d\n"
                % (retransmitted, retransmitted, ticks, ticks * idle, ticks * stolen))
    return {
        "before": part(0, 0), "after": part(100, syns),
        "tool": b"Complete requests:      10\nFailed requests:        %d\n"
                b"Requests per second:    5.00 [#/sec] (mean)\nTime taken for tests:   2.0 s\n"
                % failed,
        "time": b"2.000 %.3f 0.000\n" % (2 * busy),
        "percentiles": b"Percentage served,Time in ms\n50,1.5\n90,2.5\n99,3.5\n",
        "requests": lzma.compress(b"starttime\tseconds\tctime\tdtime\tttime\twait\n"
                                  b"x\t1\t3\t2\t5\t1\nx\t1\t1\t2\t9\t1\n")}


CELL = {"tool": "ab", "setup": "fastsocket", "workers": "2"}
PLAN = {"setups": {"fastsocket": {"preload": True}}, "saturates": True}


def test_sample():
    metrics, reason = measure.sample(CELL, PLAN, load(), counters(0), counters(100, 3, 99),
                                     None, True)
    assert reason is None
    assert metrics == {
        "requests": 10, "failed": 0, "time_s": 2, "throughput_rps": 5, "latency_p50_ms": 1.5,
        "latency_p90_ms": 2.5, "latency_p99_ms": 3.5, "latency_max_ms": 9, "connect_p99_ms": 3,
        "loadgen_busy_pct": 50, "server_busy_pct": 100, "server_busy_min_pct": 100,
        "server_busy_max_pct": 100, "context_switches_per_req": 10, "listen_overflows": 3,
        "syn_retransmits": 0, "retransmits": 0, "local_accept_pct": 100}


@pytest.mark.parametrize("loaded, after, sentence", [
    (load(failed=2), counters(100), "2 requests failed"),
    (load(syns=1), counters(100), "1 connections waited for a second SYN"),
    (load(busy=0.99), counters(100), "the load generator was the bottleneck"),
    (load(idle=1), counters(100), "not saturated: only 50 % busy"),
    (load(stolen=1), counters(100), "other virtual machines had 50 % of a host's time"),
    (load(), counters(100, warnings=b"[1] WARNING: x\n"), "the kernel warned: [1] WARNING: x"),
])
def test_invalid_samples(loaded, after, sentence):
    _, reason = measure.sample(CELL, PLAN, loaded, counters(0), after, None, True)
    assert reason.startswith(sentence)


def test_perf_repetitions_are_not_timed():
    report = b"    10.00%  [k] native_queued_spin_lock_slowpath\n    40.00%  [k] tcp_ack\n"
    metrics, reason = measure.sample(CELL, PLAN, load(), counters(0), counters(100), report, True)
    assert reason is None and metrics["spin_pct"] == 20
    assert not {name for name in metrics if name.startswith(("latency", "time", "through",
                                                             "server_busy", "connect"))}


def test_every_metric_is_a_documented_column():
    metrics, _ = measure.sample(CELL, PLAN, load(), counters(0), counters(100, 0, 9), None, True)
    assert set(metrics) <= set(contract.METRICS)


def test_unreachable_hosts(tmp_path):
    run = planned(tmp_path, *TINY)
    hosts = ('{"inventory": "x", "lab": false, "address": "127.0.0.1", '
             '"server": ["ssh", "-oBatchMode=yes", "-p1", "127.0.0.1"], "loadgen": ["sh", "-c"]}')
    done = program("experiments/run.py", run, "--hosts", hosts)
    assert done.returncode == 1
    assert "the server" in done.stderr and "refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(csv.reader((run / "samples.csv").open()))[1:] == []
