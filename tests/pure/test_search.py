# SPDX-License-Identifier: GPL-2.0-only
"""The search finds a sufficient load, chooses it for all setups alike, and reports its limit."""
import json
import lzma
import re

import pytest

import contract
import plan as planner
import proc
import run as runner
import search
import tools
from made import TINY, planned, program, summary_of, sweep_on

AB = """This is ApacheBench, Version 2.3
Complete requests:      {requests}
Failed requests:        {failed}
Requests per second:    {rate} [#/sec] (mean)
Time taken for tests:   {seconds} seconds
"""
WRK = b"""  %d threads and 100 connections
    Latency    10.00ms   10.05ms   50.00ms    75.00%%
     50%%   22.50ms
     90%%   25.00ms
     99%%   26.00ms
  %d requests in 2.00s, 1.24MB read
Requests/sec:   %d
"""
PERCENTILES = "Percentage served,Time in ms\n" + "".join(f"{i},1.5\n" for i in range(100))


class Model:
    """A server and load generators with limits in requests per second.

    server      of a setup, by name, when all its cores are busy
    process     of one process of the tool; connection: of one connection
    core        of a generator, when the core that takes its interrupts is busy
    broken      connections of one generator with which the tool fails
    """

    def __init__(self, server, process=400, connection=1000, core=1e9, broken=1e9, hosts=1):
        self.server, self.process, self.connection = server, process, connection
        self.core, self.broken = core, broken
        self.hosts = [self] * hosts
        self.setup, self.busy, self.ticks, self.used, self.commands = "shared", 0.0, 0, 0, []

    def run(self, *words, **_):
        if words[0] == "start":
            self.setup = "fastsocket" if "preload=1" in words else "shared"
            return b"".join(b"worker %d %d\n" % (core, core) for core in range(8)) + (
                b"preloaded %d\nparameter enable_listen_spawn 2\nchosen rfs 0\n"
                % (8 * (self.setup == "fastsocket")))
        if words[0] == "counters":
            # 1,000 ticks of each of 8 cores have passed since it was asked before.
            self.ticks += 1000
            self.used += int(self.busy * 1000)
            lines = "".join(f"cpu{i} {self.used} 0 0 {self.ticks - self.used} 0 0 0 0\n"
                            for i in range(8))
            self.busy = 0.0
            return (f"==> /proc/stat <==\n{lines}ctxt 1\n==> /proc/net/snmp <==\n"
                    "Tcp: RetransSegs\nTcp: 0\n==> /proc/net/netstat <==\n"
                    "TcpExt: ListenOverflows TCPSynRetrans\nTcpExt: 0 0\n"
                    "==> /proc/net/fastsocket <==\ncpu accept_local accept_global accept_remote "
                    "accept_covered\n0 0 0 0 0\n==> kernel warnings <==\n").encode()
        return b""

    def together(self, words, limit, failure=runner.LoadError, what=None):
        if words[0][0] != "load":
            return [b""] * len(words)
        commands = [" ".join(one).partition(" -- ")[2].split(" -- ") for one in words]
        self.commands.append(commands)
        if " wrk -s " in commands[0][0]:
            processes, connections = map(int, re.search(r"-t (\d+) -c (\d+)",
                                                        commands[0][0]).groups())
        else:
            connections = sum(int(one.split()[6]) for one in commands[0])
            processes = len(commands[0])
        if connections > self.broken:
            raise failure("the load generator: ab failed: apr_socket_recv: reset")
        own = min(self.process * processes, self.connection * connections, self.core)
        rate = min(self.server[self.setup], own * len(self.hosts))
        self.busy = rate / self.server[self.setup]
        return [self.printed(one, rate / len(self.hosts), processes) for one in commands]

    def printed(self, commands, rate, processes):
        if " wrk -s " in commands[0]:
            requests = 2 * rate
            texts = [(WRK % (processes, requests, rate)).decode()]
        else:
            amounts = [int(one.split()[4]) for one in commands]
            requests = sum(amounts)
            texts = [AB.format(requests=number, failed=0, rate=rate / len(amounts),
                               seconds=requests / rate) for number in amounts]
        seconds = requests / rate
        core = min(rate / self.core, 1)

        def stat(ticks):
            return (f"Tcp: RetransSegs\nTcp: 0\nTcpExt: TCPSynRetrans\nTcpExt: 0\n"
                    f"cpu0 0 0 0 {ticks * (1 - core):.0f} 0 0 {ticks * core:.0f} 0\n")

        lists = "".join("starttime\tseconds\tctime\tdtime\tttime\twait\n" + "x\t1\t1\t1\t2\t1\n" * 3
                        for _ in texts)
        return b"".join(f"==> {name} <==\n".encode() + content for name, content in {
            "before": stat(0).encode(), "tool": "".join(texts).encode(),
            "time": b"%f %f 0\n" % (seconds, seconds * processes * min(
                rate / (self.process * processes), 1)),
            "after": stat(1000).encode(), "percentiles": (PERCENTILES * len(texts)).encode(),
            "requests": lzma.compress(lists.encode())}.items())


def searching(run, model, cores=8, lab=False):
    """A sweep on hosts that do not exist, before its first repetition."""
    return sweep_on(run, model, lab, loadgen={"cores": str(cores)},
                    loadgens=[{"cores": str(cores)}] * len(model.hosts))


def searched(tmp_path, model, *settings, cores=8):
    """(the run, the search in run.json)"""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0",
                  *(word for one in settings for word in ("--set", one)))
    sweep = searching(run, model, cores)
    search.search(sweep, contract.unfinished(run))
    return run, contract.read_run(run).get("loads", [])


def test_processes_grow_until_the_server_is_the_limit(tmp_path, capsys):
    model = Model({"shared": 1000, "fastsocket": 2500})
    run, (entry,) = searched(tmp_path, model)
    # 400 each: 7 would be enough, and powers of two are tried.
    assert (entry["tool"], entry["workers"], entry["processes"]) == ("ab", 8, 8)
    assert entry["limits"]["fastsocket"] == {
        "limit": "server", "processes": 8, "concurrency": 100, "rate": pytest.approx(2500, abs=1),
        "server": 100, "generator": pytest.approx(78, abs=1), "fault": ""}
    rows = contract.read_csv(run / "search.csv")
    assert list(rows[0]) == list(contract.SEARCH)
    assert [row["step"] for row in rows] == [str(i + 1) for i in range(len(rows))]
    tried = {setup: [int(row["processes"]) for row in rows if row["setup"] == setup]
             for setup in ("shared", "fastsocket")}
    # The second setup begins with what was enough for the first.
    assert tried == {"shared": [1, 2, 4, 8], "fastsocket": [4, 8]}
    assert {row["concurrency"] for row in rows} == {"100"}
    out = capsys.readouterr().out
    assert "[search 1] shared, 1 process of ab on each load generator and 100 connections: " in out
    assert "fastsocket: with 8 processes of ab on each load generator and 100 connections the " \
           "server was 100 % busy" in out


def test_the_largest_load_is_for_all(tmp_path):
    """This also holds if a slow setup comes last."""
    model = Model({"shared": 2500, "fastsocket": 500})
    run, (entry,) = searched(tmp_path, model)
    assert entry["processes"] == 8
    sweep = searching(run, model)
    for setup in ("shared", "fastsocket"):
        task, = sweep.tasks({"setup": setup, "tool": "ab", "concurrency": "100", "workers": "8"},
                            500)
        assert task.processes == 8
    # Never more than there are connections.
    task, = sweep.tasks({"setup": "shared", "tool": "ab", "concurrency": "3", "workers": "1"}, 500)
    assert len(tools.TOOLS["ab"].commands(task)) == 3


def test_a_step_is_long_enough(tmp_path):
    """Its number of requests follows the rate, whatever the plan's is."""
    model = Model({"shared": 30000, "fastsocket": 90}, process=31000)
    run, _ = searched(tmp_path, model)
    assert all(float(row["time_s"]) >= search.LEAST_S
               for row in contract.read_csv(run / "search.csv"))


@pytest.mark.parametrize("model, cores, limit, words", [
    # One core of the generator has all interrupts.
    (Model({"shared": 9000, "fastsocket": 9000}, core=1000), 8, "generator",
     "was 100 % busy, with 4 processes of ab on each load generator and 100 connections: give more "
     "hosts in the group loadgen"),
    # A generator of two cores has no room for more processes.
    (Model({"shared": 9000, "fastsocket": 9000}), 2, "generator", "give more hosts in the group"),
    # Connections wait for the network, so more of them are enough.
    (Model({"shared": 9000, "fastsocket": 9000}, process=4000, connection=2, broken=1e9), 8,
     "server", "(concurrency=6400)"),
    (Model({"shared": 9000, "fastsocket": 9000}, process=4000, connection=2, broken=300), 8,
     "failed", "a larger load failed (the load generator: ab failed: apr_socket_recv: reset)"),
    (Model({"shared": 9000, "fastsocket": 9000}, broken=50), 8, "nothing",
     "shared, fastsocket: 1 process of ab on each load generator and 100 connections failed (the "
     "load generator: ab failed: apr_socket_recv: reset)"),
])
def test_limits(tmp_path, model, cores, limit, words):
    _, (entry,) = searched(tmp_path, model, cores=cores)
    assert {one["limit"] for one in entry["limits"].values()} == {limit}
    text, = search.ends(entry, ["shared", "fastsocket"])
    assert words in text


def test_counters_that_are_torn(tmp_path):
    """End a step, not the run."""
    model = Model({"shared": 1000, "fastsocket": 1000})
    real = Model.run
    model.run = lambda *words, **_: (b"==> /proc/stat <==\ncpu" if words[0] == "counters"
                                     else real(model, *words))
    _, (entry,) = searched(tmp_path, model)
    assert entry["processes"] is None
    assert {one["limit"] for one in entry["limits"].values()} == {"nothing"}
    assert all("is not complete" in one["fault"] for one in entry["limits"].values())


def test_nothing_is_the_limit(tmp_path):
    model = Model({"shared": 9000, "fastsocket": 9000}, process=4000)
    model.server = {"shared": 1000, "fastsocket": 1000}
    real = Model.together

    def half_busy(*args, **kwargs):
        printed = real(model, *args, **kwargs)
        model.busy /= 2
        return printed

    model.together = half_busy
    _, (entry,) = searched(tmp_path, model)
    assert {one["limit"] for one in entry["limits"].values()} == {"unknown"}
    text, = search.ends(entry, ["shared", "fastsocket"])
    assert "the server was 50 % busy" in text and "look at the network between them" in text


def test_several_generators_share_it(tmp_path):
    model = Model({"shared": 2500, "fastsocket": 2500}, hosts=2)
    _, (entry,) = searched(tmp_path, model)
    assert entry["processes"] == 4
    assert [len(commands) for commands in model.commands[-1]] in ([4, 4], [8, 8])


def test_threads_of_wrk(tmp_path):
    model = Model({"shared": 1500, "fastsocket": 1500})
    run, (entry,) = searched(tmp_path, model, "tool=wrk")
    assert entry["tool"] == "wrk" and entry["processes"] == 4
    command = model.commands[-1][0][0]
    assert "-t 8 -c 100 -d 2s" in command
    sweep = searching(run, model)
    task, = sweep.tasks({"setup": "shared", "tool": "wrk", "concurrency": "100", "workers": "8"}, 2)
    assert task.processes == 4
    assert tools.TOOLS["wrk"].usual(5, False) == tools.TOOLS["wrk"].usual(5, True) == 3
    assert [tools.TOOLS["ab"].usual(cores, False) for cores in (1, 5)] == [1, 2]


@pytest.mark.parametrize("changes, in_lab, due", [
    ({}, False, True), ({}, True, False), ({"saturates": False}, False, False),
    ({"search": 1}, True, True), ({"search": 1, "saturates": False}, False, True),
    ({"search": 0}, False, False), ({"processes": 3}, False, False)])
def test_when_it_is_due(changes, in_lab, due):
    assert search.due({"saturates": True, **changes}, in_lab) == due


def test_what_is_searched():
    plan = planner.resolve("seed-demo", "quick", ["workers=2,8", "concurrency=100,1000"])
    steps = [{name: str(value) for name, value in step.items()} for step in planner.steps(plan, 1)]
    found = search.planned(plan, {}, steps)
    # Once for each tool, with the most workers and connections; no null cell.
    assert sorted(one[:3] for one in found) == [("ab", 8, 1000), ("wrk", 8, 100)]
    assert {one[0]: one[3] for one in found}["wrk"] == ["shared", "fastsocket", "cbpf"]
    # There is no second search, and none for repetitions that are not timed.
    known = {"loads": [{"tool": "ab", "workers": 8, "processes": 4}]}
    assert [one[0] for one in search.planned(plan, known, steps)] == ["wrk"]
    assert not search.planned(plan, {}, [one for one in steps
                                         if not one["repetition"].isdigit()])
    # A run that has begun without a search goes on without.
    assert [one[0] for one in search.planned(plan, {}, steps, [
        {"tool": "ab", "repetition": "1", "workers": "8"},
        {"tool": "wrk", "repetition": "p1", "workers": "8"}])] == ["wrk"]
    assert search.chosen(known, {"tool": "ab", "workers": "2"}) == 4
    assert search.chosen(known, {"tool": "wrk", "workers": "2"}) is None
    assert not search.planned(planner.resolve("latency", "quick", ["search=1"]), {}, [
        {**steps[0], "tool": "httperf", "repetition": "1"}])


def test_each_number_of_workers_that_is_a_boot():
    plan = planner.resolve("cores", "quick", ["rounds=1", "search=1", "count_repetitions=0"])
    steps = [{name: str(value) for name, value in step.items()} for step in planner.steps(plan, 1)]
    (_, workers, _, _), = search.planned(plan, {}, steps)
    assert str(workers) == steps[0]["workers"] == min(
        (step["workers"] for step in steps), key=int)


def test_a_search_and_processes_exclude_each_other(tmp_path):
    done = program("experiments/plan.py", "seed-demo", "--results", tmp_path, "--set",
                   "processes=4", "--set", "search=1")
    assert done.stderr.startswith("plan: search, processes: a search finds the number")


def test_a_sweep_with_a_search(tmp_path):
    """A sweep to its end reports the limit and the remedy: one core has all interrupts."""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    model = Model({"shared": 9000, "fastsocket": 9000}, core=1000, process=400, connection=1e4)
    # Not choked, nor saturated: softirqs leave a tenth.
    real = model.printed

    def less_busy(*args):
        core, model.core = model.core, 1100
        try:
            return real(*args)
        finally:
            model.core = core

    model.printed = less_busy
    searching(run, model).all()
    rows = contract.read_samples(run)
    assert len(rows) == 6 * 3 and {row["valid"] for row in rows} == {"0"}
    assert {row["invalid_reason"].partition(":")[0] for row in rows} == {"not saturated"}
    entry, = contract.read_run(run)["loads"]
    assert {len(commands[0]) for commands in model.commands[-18:]} == {entry["processes"]}
    output, _ = summary_of(run)
    told = "and a larger load brought no more requests: look at the network"
    assert "6 of 6 repetitions could not be had, most often because not saturated: " in output
    assert output.count(told) == 2 and "has less else to do" not in output
    table = (run / "tables" / "left-out.md").read_text()
    assert told in table.partition("Run `")[0]
    assert " A search chose 4 processes of ab on each load generator.\n" in table
    # The search is done once.
    steps = len(contract.read_csv(run / "search.csv"))
    search.search(searching(run, model), contract.read_plan(run))
    assert len(contract.read_csv(run / "search.csv")) == steps


def test_what_can_be_read():
    """The model prints output that the suite's own parsers can read."""
    model = Model({"shared": 1000})
    text, = model.together([["load", "percentiles", "--", "ab", "-q", "-r", "-n", "500", "-c", "10",
                             "--", "ab", "-q", "-r", "-n", "500", "-c", "10"]], 1)
    metrics, reason = tools.parsed("ab", [{**proc.sections(text), "processes": b"2"}])
    assert reason is None and metrics["requests"] == 1000
    assert json.dumps(metrics)
