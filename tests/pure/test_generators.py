# SPDX-License-Identifier: GPL-2.0-only
"""Sufficient load: several load generators, several processes on each, merged."""
import os
import time
from types import SimpleNamespace

import pytest

import hosts
import measure
import proc
import run as runner
import tools
import verdicts
from test_sweep import CELL, PLAN, counters, load
from tools import ab

# Writes what ab -e and -g write, of requests that took 2, 4, 6 ms... and says so; $DELAY s.
AB = """#!/bin/bash
while [ $# -gt 1 ]; do
    case $1 in -n) n=$2 ;; -c) c=$2 ;; -e) e=$2 ;; -g) g=$2 ;; esac
    shift
done
echo "This is ApacheBench, Version 2.3"
sleep ${DELAY:-0}
if [ -n "$FAILS" ]; then echo "apr_socket_recv: Connection reset by peer (104)"; exit 104; fi
{ echo 'Percentage served,Time in ms'
  for ((i = 0; i < 100; i++)); do echo "$i,$((i + 1)).5"; done; } > $e
{ printf 'starttime\\tseconds\\tctime\\tdtime\\tttime\\twait\\n'
  for ((i = 1; i <= n; i++)); do printf 'x\\t1\\t1\\t1\\t%d\\t1\\n' $((2 * i)); done; } > $g
echo "Complete requests:      $n
Failed requests:        0
Requests per second:    $((10 * n)).00 [#/sec] (mean)
Time taken for tests:   0.${c} seconds"
"""


@pytest.fixture(name="path")
def stub_path(tmp_path):
    (tmp_path / "ab").write_text(AB)
    (tmp_path / "ab").chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def generators(path, *settings):
    """Hosts with a stub in place of ab, which has these variables."""
    return hosts.Generators([["env", f"PATH={path}", *own, "sh", "-c"] for own in settings])


def sweep_on(group, cores=(4, 4), lab=False, **plan):
    sweep = object.__new__(runner.Sweep)
    sweep.loadgen, sweep.lab, sweep.address = group, lab, "192.0.2.1"
    sweep.plan = {"setups": {"shared": {}}, "requests": 100, "factors": {"concurrency": [10]},
                  **plan}
    facts = [{"cores": str(number)} for number in cores]
    sweep.facts = {"loadgen": facts[0], **({"loadgens": facts} if len(facts) > 1 else {})}
    return sweep


STEP = {"setup": "shared", "tool": "ab", "concurrency": "10", "workers": "2"}


def test_all_generators_are_used_and_start_together(path):
    """They start together, however long it takes to reach one of them."""
    group = hosts.Generators([["env", f"PATH={path}", "sh", "-c"],
                              ["sh", "-c", 'sleep 3; eval "$0"']])
    printed = group.together([["load", "--", "date", "+%s.%N"]] * 2, 20)
    starts = [float(proc.sections(one)["tool"]) for one in printed]
    assert abs(starts[1] - starts[0]) < 2


def test_requests_are_merged_and_percentiles_not_averaged(path):
    """Two hosts with two processes each: 100 requests and 10 connections in all."""
    sweep = sweep_on(generators(path, ["A=1"], ["A=1"]))
    tasks = sweep.tasks(STEP, 100)
    assert [(task.concurrency, task.amount, task.processes) for task in tasks] == [(5, 50, 2)] * 2
    loads = sweep.load(STEP, 100, 20)
    assert [load["tool"].count(b"Requests per second") for load in loads] == [2, 2]
    metrics, reason = tools.parsed("ab", loads)
    assert reason is None
    # One process has 3 of the 5 connections, the other 2: 0.3 s and 0.2 s.
    assert metrics["requests"] == 100 and metrics["failed"] == 0
    assert metrics["time_s"] == 0.3 and metrics[tools.SHORTEST] == 0.2
    assert metrics["throughput_rps"] == pytest.approx(100 / 0.3, abs=0.01)
    # Each process has 2, 4... 50 ms: so have all together.
    assert metrics["latency_max_ms"] == 50 and metrics["latency_p99_ms"] == 50
    kept = tools.TOOLS["ab"].kept_of(loads)
    assert {"ab-tool.txt", "2-ab-tool.txt", "percentiles.csv", "2-percentiles.csv",
            "latencies.csv"} <= set(kept)
    assert "2-latencies.csv" not in kept and b"total,2,4\n" in kept["latencies.csv"]
    assert tools.TOOLS["ab"].threads(CELL, loads[0]) == 2


def test_percentiles_of_unlike_processes():
    """The slow tenth of all is the slower process's, whatever each says of itself."""
    def process(edge, requests):
        return ab.Process("", {str(part): str(edge) for part in range(100)}, [1] * requests,
                          [edge] * requests)

    both = [process(1, 900), process(100, 100)]
    assert [ab.mixed(both, percent) for percent in (50, 89, 91)] == [1, 1, 100]


def test_a_process_that_fails_makes_the_repetition_invalid(path):
    sweep = sweep_on(generators(path, ["A=1"], ["FAILS=1"]))
    metrics, reason = tools.parsed("ab", sweep.load(STEP, 100, 20))
    assert metrics == {} and reason.startswith("ab failed: apr_socket_recv: Connection reset")


def test_one_process_as_ever(path):
    """The lab's cores also belong to the server."""
    sweep = sweep_on(generators(path, ["A=1"]), cores=(4,), lab=True)
    one, = sweep.tasks(STEP, 100)
    assert (one.concurrency, one.amount, one.processes) == (10, 100, 1)
    command, = tools.TOOLS["ab"].commands(one)
    assert command[-5:-1] == ["-e", "percentiles", "-g", "requests"]
    loads = sweep.load(STEP, 100, 20)
    metrics, _ = tools.parsed("ab", loads)
    assert metrics["latency_p50_ms"] == 51.5 and tools.SHORTEST not in metrics
    assert set(tools.TOOLS["ab"].kept_of(loads)) >= {"ab-tool.txt", "latencies.csv"}


def test_the_plan_says_how_many_processes(path):
    sweep = sweep_on(generators(path, ["A=1"]), cores=(16,), processes=3)
    assert len(tools.TOOLS["ab"].commands(sweep.tasks(STEP, 100)[0])) == 3
    sweep = sweep_on(generators(path, ["A=1"]), cores=(16,))
    # Half of the cores; never more than there are connections.
    assert len(tools.TOOLS["ab"].commands(sweep.tasks(STEP, 100)[0])) == 8
    assert len(tools.TOOLS["ab"].commands(sweep.tasks({**STEP, "concurrency": "3"}, 100)[0])) == 3


def test_seconds_are_not_shared_out(path):
    sweep = sweep_on(generators(path, ["A=1"], ["A=1"]))
    tasks = sweep.tasks({**STEP, "tool": "wrk"}, 30)
    assert [(task.concurrency, task.amount) for task in tasks] == [(5, 30), (5, 30)]


WRK = b"""  2 threads and 5 connections
    Latency    %s   10.05ms   %s    75.00%%
     50%%   22.50ms
     90%%   25.00ms
     99%%   26.00ms
  %d requests in 2.00s, 1.24MB read
Requests/sec:   %d
"""


def test_histograms_of_wrk_are_added():
    """The slow generator has the slowest hundredth."""
    loads = [{"tool": WRK % (b"10.00ms", b"50.00ms", 1000, 500),
              "histogram": b"10001 998\n20004 2\n"},
             {"tool": WRK % (b"20.00ms", b"40.00ms", 3000, 1500),
              "histogram": b"702 2960\n90005 40\n"}]
    metrics, reason = tools.parsed("wrk", loads)
    assert reason is None and metrics["requests"] == 4000
    assert [metrics[f"latency_p{name}_ms"] for name in ("50", "90", "99", "999")] == [
        0.702, 10.001, 20.004, 90.005]
    # With one generator, the values that wrk prints, and those that it does not print.
    metrics, _ = tools.parsed("wrk", loads[1:])
    assert metrics["latency_p99_ms"] == 26 and metrics["latency_p999_ms"] == 90.005
    kept = tools.TOOLS["wrk"].kept_of(loads)
    assert set(kept) == {"wrk-tool.txt", "2-wrk-tool.txt", "latencies.csv"}
    assert kept["latencies.csv"] == (b"time,ms,requests\ntotal,0.702,2960\ntotal,10.0,998\n"
                                     b"total,20.0,2\ntotal,90.0,40\n")


def test_percentiles_without_lists_are_left_out():
    loads = [{"tool": WRK % (b"10.00ms", b"50.00ms", 1000, 500)},
             {"tool": WRK % (b"20.00ms", b"40.00ms", 3000, 1500)}]
    metrics, reason = tools.parsed("wrk", loads)
    assert reason is None
    assert metrics == {"requests": 4000, "failed": 0, "time_s": 2, "throughput_rps": 2000,
                       "latency_max_ms": 50, "latency_mean_ms": 17.5, tools.SHORTEST: 2}
    row = {"valid": 1, "throughput_rps": 2000.0}
    assert runner.result(row) == "2000 requests/s"


def test_counters_of_all_generators_are_added():
    one = {**load(syns=1), "percentiles": b"Percentage served,Time in ms\n" + b"".join(
        b"%d,1.5\n" % part for part in range(100))}
    metrics, reason = measure.sample(
        CELL, PLAN, [one] * 2, counters(0), counters(100), None, True)
    assert reason is None and metrics["syn_retransmits"] == 2 and metrics["requests"] == 20
    assert tools.SHORTEST not in metrics


def test_what_ends_apart_is_degraded():
    metrics = {"syn_retransmits": 0, "requests": 10, "time_s": 4.0}
    cell = {**CELL, "tool": "wrk"}
    assert verdicts.degraded(cell, metrics, None, 3.7) is None
    assert verdicts.degraded(cell, metrics, None, 2.0) == (
        "of the loads at one time the first ended after 2 s, the last after 4 s")


STAT = b"cpu0 %d 0 0 %d 0 0 %d 0\ncpu1 %d 0 0 %d 0 0 0 0\n"


@pytest.mark.parametrize("after, in_lab, busy", [
    # The tool is half busy; softirqs fill its other core; in the lab that says nothing.
    (STAT % (50, 50, 0, 50, 50), False, 50), (STAT % (0, 1, 99, 10, 90), False, 99),
    (STAT % (0, 1, 99, 10, 90), True, 50)])
def test_the_busiest_core_of_the_generator_is_judged(after, in_lab, busy):
    one = {**load(), "before": STAT % (0, 0, 0, 0, 0), "after": after}
    assert measure.generator_busy(CELL, one, in_lab) == busy
    metrics = {"failed": 0, "requests": 1, "loadgen_busy_pct": busy}
    reason = verdicts.invalid(CELL, metrics, [], 0, None)
    assert (reason is not None) == (busy == 99)
    assert reason is None or "give more processes (processes=N), or more hosts" in reason


@pytest.mark.parametrize("second, sentence", [
    (["sh", "-c", "echo no route >&2; exit 3;"], "the load generator 2: start failed: no route"),
    (["sh", "-c", "exit 255;"], "the load generator 2: start failed: exit status 255"),
    (["/nonexistent"], "the load generator 2 cannot be reached"),
])
def test_a_generator_that_is_not_there(second, sentence):
    """If one fails, none of the others starts, and none is left."""
    group = hosts.Generators([["sh", "-c"], second])
    began = time.monotonic()
    with pytest.raises(hosts.RunError, match=sentence):
        group.together([["load", "--", "sleep", "20"]] * 2, 30)
    assert time.monotonic() - began < 15


def test_fewer_connections_than_generators():
    sweep = sweep_on(SimpleNamespace(hosts=[1, 2, 3]))
    sweep.plan["factors"]["concurrency"] = [100, 2]
    with pytest.raises(runner.RunError, match="concurrency 2: fewer connections than load gen"):
        sweep.check_generators()
