# SPDX-License-Identifier: GPL-2.0-only
"""Faults in one repetition, or beside a run, do not end the run."""
import fcntl
import json
import lzma
import os
import signal
import threading
import time

import pytest

import contract
import counts
import measure
import proc
import raws
import run as runner
import samples
import tools
import verdicts
from made import fill, planned, planned_of, program, sample, summary_of, sweep_on
from test_rooms import REDIS, WRK
from test_sweep import CELL, PLAN, TINY, counters, load

ZERO = counters(0)


def judged(loaded, after=None, cell=None):
    return measure.sample(cell or CELL, PLAN, [loaded], ZERO, after or counters(100), None, True)


@pytest.mark.parametrize("change, sentence", [
    ({"tool": b"Completed 1000 requests\nKilled\n"}, "ab failed: Killed"),
    ({"percentiles": b""}, "ab failed: what it printed is not complete"),
    ({"percentiles": b"Percentage served,Time in ms\n50,1.5\n"}, "ab failed: what it printed"),
    ({"requests": b""}, "ab failed: what it printed is not complete"),
    ({"requests": lzma.compress(b"starttime\tseconds\tctime\tdt")}, "ab failed: what it printed"),
    ({"requests": b"\xfd7zXZ\x00\x00\x04 torn"}, "ab failed: what it printed"),
])
def test_ab_that_died(change, sentence):
    metrics, reason = judged({**load(), **change})
    assert metrics == {} and reason.startswith(sentence)


@pytest.mark.parametrize("tool, out", [
    ("wrk", WRK.partition(b"Latency Distribution")[0] + b"  7523 requests in 2.00s, 1MB read\n"),
    ("wrk", WRK.replace(b"22.50ms", b"nan")),
    ("wrk", b""),
    ("redis-benchmark", b"WARNING: Could not fetch server CONFIG\n" + REDIS.encode()[:40]),
    ("redis-benchmark", REDIS.encode() % (b"0.4", b"-", b"x")),
    ("redis-benchmark", b""),
])
def test_other_tools_that_died(tool, out):
    metrics, reason = judged({**load(), "tool": out, "number": b"3000\n"},
                             cell={**CELL, "tool": tool})
    assert metrics == {} and reason.startswith(f"{tool} failed: ")


class Hosts:
    """A server that always works, and a load generator that fails as told."""

    def __init__(self, error):
        self.error = error

    def run(self, *words, limit=60, failure=runner.RunError, what=None):
        if words[0] in ("load", "warm-up"):
            raise failure(self.error)
        return b"worker 1 0\npreloaded 0\n" if words[0] == "start" else b""

    @property
    def hosts(self):
        return [self]

    def together(self, words, limit, failure=runner.LoadError, what=None):
        return [self.run(*words[0], limit=limit, failure=failure, what=what)]


def swept(run, hosts):
    """A sweep on hosts that do not exist, at its end."""
    sweep = sweep_on(run, hosts)
    contract.write_run(run, sweep.facts)
    sweep.all()


def test_a_failing_load_is_an_invalid_repetition(tmp_path):
    """The sweep goes on to its end, and then names the missing repetitions in one sentence."""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    swept(run, Hosts("the load generator: ab did not end within 180 s"))
    rows = contract.read_samples(run)
    assert len(rows) == 6 * 3 and not contract.unfinished(run)
    assert {row["invalid_reason"] for row in rows} == {
        "the load generator: ab did not end within 180 s"}
    output, _ = summary_of(run)
    assert "6 of 6 repetitions could not be had, most often because the load generator" in output
    assert "(-e fresh=true)" in output
    # The programs after it do not fail either.
    for name in ("plots/plot.py", "experiments/report.py"):
        done = program(name, run)
        assert done.returncode == 0, done.stderr


STATE_OF_8 = (b"".join(b"worker %d %d\n" % (core, core) for core in range(8))
              + b"preloaded 0\nchosen rfs 0\n")


class Counter:
    """An emulator that counts fewer lines with Fastsocket; ab fails in each first attempt."""

    source = "emulator, quantum 2000"
    slower = 50
    failures = [counts.CountError("the plugin's tables were full: count fewer requests"),
                runner.LoadError("the load generator: ab failed: apr_socket_recv: reset")]

    def start(self):
        if self.failures:
            raise self.failures.pop()

    def zero(self):
        pass

    def abandon(self):
        pass

    def stop(self, requests):
        return {"line_transfers_per_req": 300.0, "kernel_instructions_per_req": 1e5,
                "user_instructions_per_req": 5e3}, {"totals.csv": b"name,value\n"}


class Answering(Hosts):
    """An ab that works while it is counted, and fails in timed repetitions."""

    def run(self, *words, limit=60, failure=runner.RunError, what=None):
        if words[0] == "load" and "1000" in words:
            return b"".join(b"==> %s <==\n%s" % (name.encode(), content)
                            for name, content in load().items())
        if words[0] == "load":
            raise failure(self.error)
        return STATE_OF_8 if words[0] == "start" else b""


def test_counts_come_first_and_are_shown_at_once(tmp_path, monkeypatch, capsys):
    """A counter that fails gets another attempt; all timed repetitions may fail."""
    monkeypatch.setattr(counts, "counter", lambda *_: Counter())
    run = planned(tmp_path, *(word for setting in (
        "setup=shared,cbpf", "tool=ab", "concurrency=100", "null=0", "perf_repetitions=0",
        "rounds=1", "count_repetitions=2", "count_requests=1000") for word in ("--set", setting)))
    swept(run, Answering("the load generator: ab failed: apr_socket_recv: reset"))
    rows = contract.read_samples(run)
    assert [row["valid"] for row in rows] == ["0", "0", *["1"] * 4, *["0"] * 6]
    output = capsys.readouterr().out
    shown, timed = (output.index(text) for text in ("counted; what is timed", "] shared 1:"))
    assert shown < timed and "| 300.0 | 1.00 |" in output
    output, _ = summary_of(run)
    assert "2 of 6 repetitions could not be had, most often because the load generator" in output


class Preloaded(Answering):
    """A server under the library that reports afterwards what was in force."""

    # One worker has not waited with others yet.
    before = after = (8, 0, 0)

    def run(self, *words, limit=60, failure=runner.RunError, what=None):
        if words[0] in ("start", "in-force"):
            found = self.before if words[0] == "start" else self.after
            return (STATE_OF_8.replace(b"preloaded 0", b"preloaded 8") + b"backend sockets %d\n"
                    b"backend devices %d\nbackend module %d\n" % found)
        return super().run(*words, limit=limit, failure=failure)


@pytest.mark.parametrize("after, backend", [
    ((9, 0, 0), "kernel"), ((1, 0, 0), "none"), ((9, 0, 1000), "module"), ((9, 8, 0), "module")])
def test_a_backend_that_was_not_in_force(tmp_path, monkeypatch, after, backend):
    """The reason is in the table of left out repetitions, by cell."""
    monkeypatch.setattr(counts, "counter", lambda *_: Counter())
    monkeypatch.setattr(Counter, "failures", [])
    run = planned_of(tmp_path, "counts", "--set", "setup=kernel", "--set", "count_repetitions=1",
                     "--set", "count_requests=1000", "--set", "attempts=1")
    hosts = Preloaded("")
    hosts.after = after
    swept(run, hosts)
    row, = contract.read_samples(run)
    assert row["backend"] == backend and row["line_transfers_per_req"] == "300.0"
    assert row["valid"] == str(int(backend == "kernel"))
    assert row["invalid_reason"].startswith("" if backend == "kernel" else
                                            "the kernel backend is not in force: ")
    output, _ = summary_of(run)
    assert ("| kernel | left out | the kernel backend is not in force |" in output) == (
        backend != "kernel")


def test_a_script_that_hangs_is_ended(tmp_path):
    (tmp_path / "script").write_text("sleep 60 & wait")
    host = runner.Host("the load generator", ["sh", "-c"], tmp_path / "script")
    with pytest.raises(runner.LoadError, match="ab did not end within 1 s"):
        host.run("ab", limit=1, failure=runner.LoadError)


def test_an_interrupted_sweep_leaves_no_load_behind(tmp_path):
    (tmp_path / "script").write_text(
        f"sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait")
    host = runner.Host("the load generator", ["sh", "-c"], tmp_path / "script")

    def interrupt(*_):
        raise KeyboardInterrupt

    def when_it_runs():
        while not (tmp_path / "pid").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGALRM)
    before = signal.signal(signal.SIGALRM, interrupt)
    threading.Thread(target=when_it_runs, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            host.run("ab")
    finally:
        signal.signal(signal.SIGALRM, before)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(300):
        if not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the load goes on")


@pytest.mark.parametrize("status, error", [(1, runner.LoadError), (255, runner.RunError)])
def test_a_lost_host_ends_the_run(tmp_path, status, error):
    (tmp_path / "script").write_text(f"exit {status}")
    host = runner.Host("the load generator", ["sh", "-c"], tmp_path / "script")
    with pytest.raises(runner.RunError) as caught:
        host.run("ab", failure=runner.LoadError)
    assert caught.type is error


def test_torn_rows_do_not_count(tmp_path):
    run = planned(tmp_path, *TINY)
    steps = contract.read_plan(run)
    sample(run, steps[0], 1, 100)
    with open(run / "samples.csv", "a", encoding="utf-8") as file:
        file.write("seed-demo,2026\n")
    sample(run, steps[1], 2, 200)
    with open(run / "samples.csv", "a", encoding="utf-8") as file:
        file.write("seed-demo,20261127T000000Z,fastsocket,1,3,2026-11-27,shared,ab,100,8,1")
    assert [row["order"] for row in contract.read_samples(run)] == ["1", "2"]
    assert len(samples.read(run)) == 2
    sweep = object.__new__(runner.Sweep)
    sweep.run = run
    sweep.columns = contract.sample_columns(contract.read_run(run)["plan"]["factors"])
    assert sweep.open_samples() == 2
    assert (run / "samples.csv").read_text().count("\n") == 3


def test_a_broken_run_beside(tmp_path):
    run = planned(tmp_path, *TINY)
    for name, text in (("20990101T000000Z", '{"plan": {'), ("20990102T000000Z", None),
                       ("20990103T000000Z", "{}")):
        (run.parent / name).mkdir()
        if text is not None:
            (run.parent / name / "run.json").write_text(text)
    assert planned(tmp_path, *TINY) == run


@pytest.mark.parametrize("name, words", [
    ("experiments/summarise.py", []), ("plots/plot.py", []), ("experiments/report.py", []),
    ("experiments/run.py", ["--hosts", "{}"])])
def test_a_run_that_is_broken_itself(tmp_path, name, words):
    """As after a crash of the machine: it is named in one sentence."""
    run = planned(tmp_path, *TINY)
    sample(run, contract.read_plan(run)[0], 1, 100)
    (run / "tables").mkdir()
    (run / "run.json").write_text('{"plan": {')
    done = program(name, run, *words)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{run}/run.json is broken, " in done.stderr


@pytest.mark.parametrize("error, status", [
    (KeyboardInterrupt, False), (runner.RunError("the load generator: load failed: "), True)])
def test_hosts_are_released_if_the_server_is_gone(tmp_path, monkeypatch, error, status):
    """Those that are still there are told who puts back their settings."""
    run, released = planned(tmp_path, *TINY), []

    class Gone:
        held = ["a load generator"]

        def all(self):
            raise error

        def stop(self):
            raise runner.RunError("the server: stop failed: ssh: no route to host")

    monkeypatch.setattr(runner, "Sweep", lambda *_: Gone())
    monkeypatch.setattr(runner.holding, "release", lambda *words: released.append(words))
    monkeypatch.setattr(runner.sys, "argv", ["run.py", str(run), "--hosts", "{}"])
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(runner.RunError, match="the server: stop failed"):
            runner.main()
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
    assert released == [(["a load generator"], status)]


@pytest.mark.parametrize("address", ["fd66::1", "server.example", ""])
def test_an_address_that_no_server_listens_at(tmp_path, address):
    run = planned(tmp_path, *TINY)
    hosts = {"lab": False, "address": address, "nic": "lo", "backend": {}, "inventory": "x",
             "server": ["false"], "loadgen": [["false"]], "states": []}
    done = program("experiments/run.py", run, "--hosts", json.dumps(hosts))
    assert (done.returncode, done.stderr) == (1, f"run: bench_address {address}: give an IPv4 "
                                              "address of the server in the inventory\n")


def test_a_run_of_an_older_version_gets_the_new_columns(tmp_path):
    run = planned(tmp_path, *TINY)
    sample(run, contract.read_plan(run)[0], 1, 100)
    lines = [line.split(",") for line in (run / "samples.csv").read_text().splitlines()]
    at = lines[0].index("degraded")
    (run / "samples.csv").write_text("".join(
        ",".join(line[:at] + line[at + 1:]) + "\n" for line in lines))
    sweep = object.__new__(runner.Sweep)
    sweep.run = run
    sweep.columns = contract.sample_columns(contract.read_run(run)["plan"]["factors"])
    assert sweep.open_samples() == 1
    row, = contract.read_samples(run)
    assert list(row) == sweep.columns and row["throughput_rps"] == "100" and not row["degraded"]


def test_one_sweep_at_a_time(tmp_path):
    run = planned(tmp_path, *TINY)
    folder = os.open(run, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    hosts = json.dumps({"inventory": "x", "lab": False, "address": "127.0.0.1", "nic": "lo",
                        "backend": {"program": "x", "address": "127.0.0.1:1", "state": "x"},
                        "server": ["false"], "loadgen": [["false"]]})
    done = program("experiments/run.py", run, "--hosts", hosts)
    os.close(folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"run: {run.name} is being run by another sweep: ")


@pytest.mark.parametrize("before, after, new", [
    (b"", b"[    1.5] WARNING: x\n", ["[    1.5] WARNING: x"]),
    (b"[    1.5] a\n", b"[    1.5] a\n", []),
    # The ring has dropped its beginning: it is shorter, or as long as before.
    (b"[    1.5] a\n[    2.0] b\n", b"[    2.0] b\n[    9.0] WARNING\n", ["[    9.0] WARNING"]),
    (b"[    1.5] a\n[    2.0] b\n", b"[    9.0] c\n", ["[    9.0] c"]),
    (b"[    1.5] a\n", b"[    1.5] a\n[    1.5] b\n    no stamp\n", ["[    1.5] b"]),
])
def test_kernel_warnings_are_told_by_their_time(before, after, new):
    assert proc.new_warnings(before, after) == new


def test_second_syns_degrade_and_void_nothing():
    """One in a thousand is tolerated; ten requests cannot have as few."""
    metrics, reason = judged(load(syns=1))
    assert reason is None
    assert metrics["degraded"] == ("10.00 % of the connections waited for a second SYN "
                                   "(0.1 % are tolerated)")
    metrics, reason = judged(load(), counters(100, syns=2))
    assert reason is None and metrics["degraded"].startswith("20.00 %")
    assert verdicts.degraded_by_syns({"syn_retransmits": 6, "requests": 6000}) is None
    assert verdicts.degraded_by_syns({"syn_retransmits": 7, "requests": 6000})


def test_the_mean_of_less_than_a_millisecond():
    percentiles = "".join(f"{percent},{0.002 * percent}\n" for percent in range(100))
    metrics, _ = tools.TOOLS["ab"].parse({
        **load(), "percentiles": f"Percentage served,x\n{percentiles}".encode()})
    # Evenly from 0 to 0.2 ms, and one request in a hundred 9 ms.
    assert metrics["latency_mean_ms"] == 0.188


@pytest.mark.parametrize("held, said", [
    (100, False), (91, False), (110, False), (89, True), (112, True), (None, False)])
def test_littles_law(held, said):
    """As many connections are under way as asked for; 5,000 of them do not fit 6,000 requests."""
    metrics = {} if held is None else {"held_connections": held}
    sentence = verdicts.degraded_by_little(metrics, 100)
    assert sentence == (f"by Little's law {held} connections were under way, not 100"
                        if said else None)
    assert verdicts.degraded_by_little({"held_connections": 0.5}, 1) is None


def test_a_tool_that_counts_other_requests_than_the_server():
    assert verdicts.degraded_by_accepts(1000, 1130, 100) is None
    assert verdicts.degraded_by_accepts(1000, 1151, 100) == (
        "the tool counts 1000 requests, the server 1151 connections")
    assert verdicts.degraded_by_accepts(1000, 800, 100)


def test_runs_that_voided_second_syns_are_judged_again(tmp_path):
    """The first attempt counts, and a later one without lost SYNs does not."""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    step = contract.read_plan(run)[0]
    sample(run, step, 1, 100, valid=0, requests=1000,
           invalid_reason="7 connections waited for a second SYN")
    sample(run, step, 2, 400, requests=1000)
    rows = samples.read(run)
    row, = rows[rows["valid"] == 1].to_dict("records")
    assert row["throughput_rps"] == 100
    assert row["degraded"] == "0.70 % of the connections waited for a second SYN"


def test_packed_raw_files_are_read_as_before(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    fill(run, {"shared": [1, 1, 1], "fastsocket": [1, 1, 1]})
    raw = run / "raw" / "shared" / "1"
    raw.mkdir(parents=True)
    (raw / "ab-tool.txt").write_bytes(b"x\xff\n")
    (raw / "perf.data").write_bytes(b"big")
    (raw / "requests.tsv.xz").write_bytes(load()["requests"])
    raws.pack(run)
    first = (run / "raw.tar.xz").read_bytes()
    assert raws.Raw(run).read("shared", "1", "ab-tool.txt") == b"x\xff\n"
    assert raws.Raw(run).read("shared", "1", "latencies.csv") == (
        b"time,ms,requests\nconnect,1,1\nconnect,3,1\ntotal,5,1\ntotal,9,1\n")
    assert [path.name for path in (run / "raw").rglob("*") if path.is_file()] == ["perf.data"]
    assert raws.Raw(run).names() == ["shared/1/ab-tool.txt", "shared/1/latencies.csv",
                                     "shared/1/perf.data"]
    # A second call gives the same; new lines since are added.
    raws.pack(run)
    assert (run / "raw.tar.xz").read_bytes() == first
    (raw / "ab-time.txt").write_bytes(b"1 2 3\n")
    raws.pack(run)
    assert "shared/1/ab-time.txt" in raws.Raw(run).packed
