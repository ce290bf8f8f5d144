# SPDX-License-Identifier: GPL-2.0-only
"""Source addresses and ports of load generators: their use, and the message when they run out."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import contract
import hosts
import measure
import proc
import run as runner
import search
import sources
import tools
from made import TINY, planned
from test_generators import STEP, sweep_on
from test_search import Model, searching
from test_sweep import CELL, PLAN, counters, load

ROOT = Path(__file__).resolve().parents[2]
AB, WRK = tools.TOOLS["ab"], tools.TOOLS["wrk"]

# A server that answers; with "hold" it leaves closing to the client, for the last 50 connections.
SERVER = """
import socket, sys
listener = socket.create_server(("10.9.9.1", 80), backlog=500)
print("ready", flush=True)
held = []
while True:
    one, _ = listener.accept()
    one.recv(1000)
    one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\nConnection: close\\r\\n\\r\\nok\\n")
    held += [one]
    if sys.argv[1] != "hold" or len(held) > 50:
        held.pop(0).close()
"""
# A host of its own with 201 ports; its second address is one of ours.
SETTING = """
ip link set lo up
ip address add 10.9.9.1/32 dev lo; ip address add 10.9.9.2/32 dev lo
sysctl -qw net.ipv4.ip_local_port_range='40000 40200' net.ipv4.tcp_tw_reuse=0
coproc "$0" -c "$SERVER" "$1"
read -r <&"${COPROC[0]}"
shift
timeout 20 bash -s -- "$@"
status=$?
kill "$COPROC_PID"
exit $status
"""


def on_a_host(mode, *words):
    """The output of load.sh on a host with few ports."""
    return subprocess.run(
        ["unshare", "-n", "bash", "-c", SETTING, sys.executable, mode, *map(str, words)],
        input=(ROOT / "experiments/load.sh").read_bytes(), capture_output=True, check=False,
        timeout=30, env={**os.environ, "SERVER": SERVER})


def applied(tool, mode="close", concurrency=20, amount=500, **task):
    one = tools.Task("10.9.9.1", 80, "/", concurrency, amount, 1, **task)
    done = on_a_host(mode, "load", *tool.files, *runner.separated(tool.commands(one)))
    assert done.returncode == 0, done.stderr
    return {**proc.sections(done.stdout), **tool.asked(one)}


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")


@needs_root
def test_ab_without_ports():
    """One connection more than there are; with two addresses there are enough."""
    loaded = applied(AB, concurrency=300)
    assert sources.capacity(loaded) == 201
    _, reason = tools.parsed("ab", [loaded])
    assert reason == (
        "the load generator ran out of source ports (EADDRNOTAVAIL): give it more addresses "
        "(bench_source_addresses of the inventory), widen its net.ipv4.ip_local_port_range, or "
        "give more hosts in the group loadgen")
    loaded = applied(AB, concurrency=300, sources=("10.9.9.1",))
    assert b"bind: Address already in use" in loaded["tool"]
    assert tools.parsed("ab", [loaded])[1] == reason
    loaded = applied(AB, concurrency=300, processes=2, sources=("10.9.9.1", "10.9.9.2"))
    assert sources.capacity(loaded) == 402
    metrics, reason = tools.parsed("ab", [loaded])
    assert reason is None and metrics["requests"] == 500 and metrics["failed"] == 0


@needs_root
def test_an_address_that_the_host_lacks():
    loaded = applied(AB, sources=("10.9.9.7",))
    assert tools.parsed("ab", [loaded])[1].startswith("the load generator has lost an address")
    assert on_a_host("close", "addresses", "10.9.9.1", "10.9.9.2").returncode == 0
    done = on_a_host("close", "addresses", "10.9.9.1", "10.9.9.7")
    assert done.returncode == 1
    assert done.stderr.startswith(b"it has no address 10.9.9.7: ip address add 10.9.9.7/LENGTH")


@needs_root
def test_wrk_leaves_time_wait_and_runs_out():
    """wrk closes first where the server does not; it says only how many could not connect."""
    loaded = applied(WRK, "hold", amount=1)
    metrics, _ = tools.parsed("wrk", [loaded])
    assert loaded["histogram"] and metrics["latency_p999_ms"] > 0
    assert metrics["failed"] > 0 and sources.waiting(loaded["after"]) > 100
    found = sources.ran_out(WRK, 20, [loaded])
    assert found.startswith(sources.OUT) and "as wrk cannot" in found
    cell = {**CELL, "tool": "wrk", "workers": "1", "concurrency": "20"}
    assert measure.sample(cell, PLAN, [loaded], counters(0), counters(100), None, True)[1] == found
    # The warning about the next repetition comes before it begins.
    told = sources.shortage(WRK, {**metrics, "time_s": 1.0, "throughput_rps": 200.0}, [loaded])
    assert "in TIME_WAIT on their load generator, for 60 s: that takes" in told
    assert "source ports, and it has 201: widen its net.ipv4" in told


def sections(left, reuse=2, ports="1024\t65535", seconds=1):
    return {"before": b"TCP: inuse 3 orphan 0 tw 0 alloc 4 mem 0\n",
            "after": b"TCP: inuse 3 orphan 0 tw %d alloc 4 mem 0\n" % left,
            "ports": f"{ports}\n{reuse}\n1\n".encode()}


@pytest.mark.parametrize("load_, tool, out", [
    # 64,512 ports, of which a minute takes 60 times what one second has left.
    (sections(1000), WRK, False), (sections(1100), WRK, True),
    # Ports that are used again after a second.
    (sections(20000, reuse=1), WRK, False),
    # If the server closes first, nothing is left, however fast it is.
    (sections(0), AB, False),
    ({**sections(1100), "addresses": b"2\n"}, AB, False),
    ({}, AB, False)])
def test_shortage(load_, tool, out):
    metrics = {"time_s": 1.0, "throughput_rps": 100000.0, "requests": 100000}
    assert bool(sources.shortage(tool, metrics, [load_])) == out
    # Each of two generators has its own.
    assert bool(sources.shortage(tool, metrics, [sections(0), load_])) == out


def test_a_shortage_is_told_once_and_before(capsys):
    forecast, step = sources.Forecast(), {"setup": "shared", "tool": "wrk"}
    metrics = {"time_s": 1.0, "throughput_rps": 2000.0}
    forecast.tell(step)
    forecast.note(WRK, step, metrics, [sections(1100)], True)
    forecast.tell(step)
    assert capsys.readouterr().out == ""
    forecast.note(WRK, step, metrics, [sections(1100)], False)
    forecast.tell(step)
    assert capsys.readouterr().out.startswith(
        "shared: 2000 requests/s of wrk leave 0.55 connections each in TIME_WAIT on their load "
        "generator, for 60 s: that takes 66,000 source ports, and it has 64,512: ")
    forecast.note(WRK, step, metrics, [sections(1200)], False)
    forecast.tell(step)
    assert capsys.readouterr().out == ""


def test_loads_of_older_versions_have_no_ports():
    assert sources.capacity(load()) is None and sources.waiting(load()["after"]) == 0
    assert sources.ran_out(AB, 100, [load()]) is None


def test_addresses_are_dealt_out_to_processes():
    sweep = sweep_on(SimpleNamespace(hosts=[1, 2]), cores=(6, 6))
    sweep.sources = [["192.0.2.8", "192.0.2.9"], []]
    first, second = sweep.tasks(STEP, 100)
    commands = AB.commands(first)
    assert [words[words.index("-B") + 1] for words in commands] == [
        "192.0.2.8", "192.0.2.9", "192.0.2.8"]
    assert AB.asked(first) == {"processes": b"3\n", "addresses": b"2\n"}
    assert not any("-B" in words for words in AB.commands(second))
    assert AB.asked(second) == {"processes": b"3\n"}
    # wrk has no such option.
    assert "192.0.2.8" not in str(WRK.commands(first))


def test_addresses_are_checked_and_recorded():
    asked = []
    host = SimpleNamespace(run=lambda *words: asked.append(words))
    sweep = sweep_on(SimpleNamespace(hosts=[host, host]))
    sweep.check_sources([[], []])
    assert not asked and "sources" not in sweep.facts and not sweep.sources
    sweep.check_sources([["192.0.2.8"], ["192.0.2.9", "192.0.2.10"]])
    assert asked == [("addresses", "192.0.2.8"), ("addresses", "192.0.2.9", "192.0.2.10")]
    assert sweep.facts["sources"] == sweep.sources
    host = hosts.Host("the load generator", ["sh", "-c"], "load.sh")
    with pytest.raises(hosts.RunError, match="addresses failed: it has no address 192.0.2.8: "):
        host.run("addresses", "192.0.2.8")


@pytest.mark.parametrize("given", [[["192.0.2.8"]], ["192.0.2.8", "192.0.2.9"]])
def test_lists_of_addresses(given):
    sweep = sweep_on(SimpleNamespace(hosts=[SimpleNamespace(run=lambda *_: b"")] * 2))
    with pytest.raises(runner.RunError, match="bench_source_addresses: give a list of addresses"):
        sweep.check_sources(given)


def test_the_search_stops_where_the_ports_end(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    model = Model({"shared": 9000, "fastsocket": 9000}, process=4000, connection=2)
    real = model.printed
    model.printed = lambda *args: b"==> ports <==\n1024 1573\n2\n1\n" + real(*args)
    search.search(searching(run, model), contract.unfinished(run))
    entry, = contract.read_run(run)["loads"]
    assert {one["limit"] for one in entry["limits"].values()} == {"ports"}
    assert max(int(row["concurrency"]) for row in contract.read_csv(run / "search.csv")) == 550
    text, = search.ends(entry, ["shared", "fastsocket"])
    assert "and more connections have no source port: give it more addresses" in text
