# SPDX-License-Identifier: GPL-2.0-only
"""The rooms: the descriptions of each tool and each server, and that the scripts follow them."""
import lzma
import subprocess
from pathlib import Path

import pytest
import yaml

import plan
import proc
import run as runner
import servers
import tools
import verdicts
from tools import wrk

ROOT = Path(__file__).resolve().parents[2]
TASK = tools.Task("192.0.2.1", 80, "/", 80, 1600, 8)


def test_a_file_each():
    assert set(tools.TOOLS) == {"ab", "wrk", "redis-benchmark", "httperf"}
    assert set(servers.SERVERS) == {"demo", "demo-proxy", "nginx", "nginx-proxy", "haproxy",
                                    "redis", "command"}


@pytest.mark.parametrize("name", sorted(tools.TOOLS))
def test_a_tool_says_all(name):
    tool = tools.TOOLS[name]
    assert tool.name == name and tool.packages and tool.latency.startswith("from ")
    commands = runner.separated(tool.commands(TASK))
    # This lets load.sh find the ends of commands.
    assert commands.count("--") == len(tool.commands(TASK)) and all(commands)
    assert {server.speaks for server in servers.SERVERS.values()} >= {tool.speaks}


def test_the_makefile_has_the_tools_packages():
    """It needs them before Python, which could say which they are, is installed."""
    done = subprocess.run(["make", "-s", "sweep-depends"], cwd=ROOT, capture_output=True,
                          text=True, check=True)
    assert set(tools.packages()) <= set(done.stdout.strip().split(", "))
    listed = (ROOT / "Makefile").read_text().partition("\n# How many")[2]
    assert not set(tools.packages()) & set(listed.split())


def test_the_makefile_has_the_packages_of_an_added_tool(tmp_path):
    """It is read from the tool's file."""
    folder = tmp_path / "experiments/tools"
    folder.mkdir(parents=True)
    (folder / "other.py").write_text('class A:\n    packages = ("other-tool", "more")  # x (y)\n')
    done = subprocess.run(["make", "-s", "-f", ROOT / "Makefile", "sweep-depends"], cwd=tmp_path,
                          capture_output=True, text=True, check=True)
    assert done.stdout.startswith("other-tool, more, gcc, ")


@pytest.mark.parametrize("name, commands", [
    ("ab", ["ab -q -r -n 1600 -c 80 -e percentiles -g requests http://192.0.2.1/"]),
    ("wrk", [f"sh -c printf %s \"$0\" > script.lua && exec wrk -s script.lua \"$@\" {wrk.SCRIPT} "
             "-t 1 -c 80 -d 1600s --latency -H Connection: close http://192.0.2.1/"]),
    ("httperf", ["httperf --hog --verbose --verbose --server 192.0.2.1 --port 80 --uri / "
                 "--add-header Connection: close\\n --timeout 20 --rate 80 --num-conns 128000 "
                 "--num-calls 1"]),
    ("redis-benchmark", [f"redis-benchmark -h 192.0.2.1 -p {80 + i} -c 10 -n 200 -t get -d 64 --csv"
                         for i in range(8)]),
])
def test_commands(name, commands):
    assert [" ".join(map(str, words)) for words in tools.TOOLS[name].commands(TASK)] == commands


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
    metrics, reason = tools.TOOLS["wrk"].parse({"tool": WRK})
    assert reason is None
    assert metrics == {"requests": 7523, "failed": 10, "time_s": 2, "throughput_rps": 3757.11,
                       "latency_p50_ms": 22.5, "latency_p90_ms": 0.95, "latency_p99_ms": 1100,
                       "latency_max_ms": 1020, "latency_mean_ms": 24.32}


REDIS = """\
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","1988.07","0.500","0.200","%s","1.007","%s","%s"
"""


def test_redis_benchmark_output():
    """Three instances, whose lines come as they end."""
    out = REDIS % (0.4, 1.1, 8) + REDIS % (0.6, 1.5, 3) + REDIS % (0.5, 1.2, 4)
    load = {"tool": out.encode(), "number": b"3000\n", "time": b"1.500 0.3 0.4\n"}
    parse = tools.TOOLS["redis-benchmark"].parse
    metrics, reason = parse(load)
    assert reason is None
    assert metrics == {"requests": 3000, "failed": 0, "time_s": 1.5, "throughput_rps": 2000,
                       "latency_p50_ms": 0.5, "latency_p99_ms": 1.2, "latency_max_ms": 8,
                       "latency_mean_ms": 0.5}
    load["tool"] += b"Could not connect to Redis at 10.66.0.1:6380: Connection refused\n"
    assert parse(load) == (
        {}, "redis-benchmark failed: Could not connect to Redis at 10.66.0.1:6380: "
            "Connection refused")


def test_tools_that_fail():
    for tool in tools.TOOLS.values():
        metrics, reason = tool.parse({"tool": b"connect: Connection refused (111)\n"})
        assert metrics == {} and "Connection refused" in reason


def test_targets_and_limits():
    assert TASK._replace(port=8080, path="/x").url == "http://192.0.2.1:8080/x"
    plan = {"requests": 5000, "seconds": 2}
    assert tools.TOOLS["wrk"].amount(plan) == 2 and tools.TOOLS["ab"].amount(plan) == 5000
    assert tools.TOOLS["wrk"].limit(plan) == 122 and tools.TOOLS["ab"].limit(plan) == 170


OWN = {"argv": ["mine", "-w@WORKERS@", "$HOME"], "answer": "hello"}


@pytest.mark.parametrize("name", sorted(servers.SERVERS))
def test_a_server_says_all(name):
    server = servers.SERVERS[name]
    assert server.title and tools.speaking(server.speaks)
    for mode in server.modes:
        setup = {"server": name, "mode": mode, **({"command": OWN} if name == "command" else {})}
        server = servers.of(setup)
        assert server.fault(setup) is None
        work = servers.Work(setup, 4, "192.0.2.2:8080")
        words = server.words(work)
        assert words["told"] in ("children", "threads", "itself") and words["port"] > 0
        assert all(server.program(work))
        text = (server.config(work) or "") + " ".join(map(str, server.program(work)))
        assert ("192.0.2.2:8080" in text) == server.forwards


def test_packages_are_named_in_one_place():
    """That is the file of the tool or server: see packages.py."""
    facts = yaml.safe_load((ROOT / "playbooks/roles/provision/defaults/main.yml").read_text())
    listed = set(sum(facts["provision_packages"].values(), []))
    assert not listed & {*servers.packages(), *tools.packages()}
    assert dict(servers.services()).keys() == set(servers.packages())


def test_a_server_of_ones_own():
    setup = {"server": "command", "command": {
        **OWN, "port": 8080, "workers": "threads", "path": "/x"}}
    sweep = object.__new__(runner.Sweep)
    sweep.plan, sweep.facts, sweep.parameters = {"setups": {"own": setup}}, {}, {}
    sweep.nic, sweep.backend, sweep.address = "lo", {"address": "192.0.2.2:1"}, "192.0.2.1"
    words = sweep.state(setup, 4)
    assert words.items() >= {"server": "command", "port": 8080, "listeners": 1, "told": "threads",
                             "says": "", "pin": 1}.items()
    assert servers.of(setup).program(sweep.work(setup, 4)) == ["mine", "-w4", "$HOME"]
    step = {"setup": "own", "concurrency": "10", "workers": "4"}
    assert sweep.task(step, 100).url == "http://192.0.2.1:8080/x"
    assert not servers.of(setup).stoppable
    assert servers.SERVERS["command"].port == 80


@pytest.mark.parametrize("command, sentence", [
    (None, "server command: give under command argv and answer"),
    ({"argv": ["x"]}, "server command: give under command argv and answer"),
    ({**OWN, "ports": 1}, "server command: give under command argv and answer"),
    ({**OWN, "argv": "mine -w 4"}, "command: argv: give a list of words"),
    ({**OWN, "answer": " "}, "command: answer: give a text"),
    ({**OWN, "port": 0}, "command: port 0: give one of 1 to 65535"),
    ({**OWN, "workers": "processes"}, "command: workers processes: give one of children, threads"),
    ({**OWN, "path": "x"}, "command: path x: give one that begins with /"),
    ({**OWN, "workers": "itself"}, "the server is its only worker: give workers 1"),
    (OWN, None),
])
def test_bad_commands(command, sentence):
    experiment = plan.load("null")
    experiment["setups"]["other"] = {"server": "command", "command": command}
    if sentence is None:
        plan.check(experiment)
        return
    with pytest.raises(plan.PlanError, match=f"setup other: {sentence}"):
        plan.check(experiment)
    del experiment["setups"]["other"]["server"]
    with pytest.raises(plan.PlanError, match="setup other: command: only server: command has one"):
        plan.check(experiment)


class Answer:
    def run(self, *words, **_):
        assert words == ("answer", "192.0.2.1", 80, "/")
        return b"HTTP/1.0 404 Not Found\r\n\r\n"


def test_an_answer_that_is_not_expected():
    sweep = object.__new__(runner.Sweep)
    sweep.loadgen, sweep.address = Answer(), "192.0.2.1"
    own = servers.of({"server": "command", "command": OWN})
    assert sweep.wrong_answer(own).startswith("/ is answered without 'hello': 'HTTP/1.0 404 Not")
    own.answer = "Not Found"
    assert sweep.wrong_answer(own) is None
    assert sweep.wrong_answer(servers.SERVERS["demo"]) is None


def loaded(*words):
    script = (ROOT / "experiments/load.sh").read_bytes()
    return subprocess.run(["bash", "-s", "--", *words], input=script, check=False,
                          capture_output=True)


def test_load_runs_commands_at_a_time():
    """Returns the files that they have written, compressed if that is asked for."""
    done = loaded("load", "a", "none", "b.xz", "--", "sh", "-c", "sleep 1; echo one; echo A > a",
                  "--", "sh", "-c", "sleep 1; echo two >&2; echo B > b; pwd")
    assert done.returncode == 0
    found = proc.sections(done.stdout)
    assert list(found) == ["before", "tool", "time", "after", "ports", "a", "none", "b"]
    *words, folder = sorted(found["tool"].split(), key=len)
    assert set(words) == {b"one", b"two"} and not Path(folder.decode()).exists()
    assert found["a"] == b"A\n" and lzma.decompress(found["b"]) == b"B\n" and not found["none"]
    assert 1 <= float(found["time"].split()[0]) < 2


def test_a_command_that_fails_is_judged_by_its_output():
    found = proc.sections(loaded("load", "--", "sh", "-c", "echo why; exit 3").stdout)
    assert found["tool"] == b"why\n" and b"exit status 3" in found["time"]
    assert loaded("warm-up", "false").returncode == 1
    assert loaded("warm-up", "true", "--", "true").returncode == 0


# Its output after a load of two seconds, as far as the suite uses it.
HTTPERF = """\
httperf: warning: open file limit > FD_SETSIZE; limiting max. # of open files to FD_SETSIZE
httperf --verbose --hog --client=0/1 --server=127.0.0.1 --port=80 --uri=/ --rate=%(rate)d \
--send-buffer=4096 --recv-buffer=16384 --timeout=20 --num-conns=%(asked)d --num-calls=1
httperf: maximum number of open descriptors = 1024
Maximum connect burst length: %(burst)d

Connection lifetime histogram (time in ms):
             0.5 %(fast)d
             :
          1000.5 %(slow)d

Total: connections 400 requests 400 replies 400 test-duration 2.500 s

Connection rate: 325.2 conn/s (3.1 ms/conn, <=120 concurrent connections)
Connection time [ms]: min 0.0 avg %(mean).1f max 1000.9 median 0.5 stddev 97.3
Connection time [ms]: connect 38.8
Reply status: 1xx=0 2xx=%(ok)d 3xx=0 4xx=0 5xx=0

Errors: total 0 client-timo 0 socket-timo 0 connrefused 0 connreset 0
Errors: fd-unavail %(fds)d addrunavail %(ports)d ftab-full 0 other 0
"""


def httperf(*processes):
    usual = {"rate": 200, "asked": 400, "burst": 4, "fast": 300, "slow": 100, "mean": 250.0,
             "ok": 400, "fds": 0, "ports": 0}
    return {"tool": "".join(HTTPERF % {**usual, **own} for own in processes).encode(),
            "processes": b"%d\n" % len(processes)}


def test_httperf_output():
    tool = tools.TOOLS["httperf"]
    metrics, reason = tool.parse(httperf({}))
    assert reason is None
    assert metrics == {"requests": 400, "failed": 0, "time_s": 2.5, "throughput_rps": 160,
                       "latency_p50_ms": 0.5, "latency_p90_ms": 1000.5, "latency_p99_ms": 1000.5,
                       "latency_p999_ms": 1000.5, "latency_max_ms": 1000.9,
                       "latency_mean_ms": 250}


def test_histograms_are_added():
    """The histograms of two processes and of another host are added; one answer is no 2xx."""
    loads = [httperf({}, {"fast": 400, "slow": 0, "mean": 0.5}),
             httperf({"fast": 400, "slow": 0, "ok": 399, "mean": 0.5})]
    metrics, reason = tools.parsed("httperf", loads)
    assert reason is None
    assert metrics["requests"] == 1199 and metrics["failed"] == 1
    # A hundred of twelve hundred waited.
    assert metrics["latency_p90_ms"] == 0.5 and metrics["latency_p99_ms"] == 1000.5
    kept = tools.TOOLS["httperf"].kept_of(loads)
    assert kept["latencies.csv"] == b"time,ms,requests\ntotal,0,1100\ntotal,1000,100\n"
    assert {"httperf-tool.txt", "2-httperf-tool.txt"} <= set(kept)


@pytest.mark.parametrize("own, sentence", [
    ({"burst": 100}, "httperf was up to 0.50 s late with its connections"),
    ({"fds": 7}, "httperf failed: 7 connections beyond the 1,020 that a process can have"),
    ({"ports": 7}, "httperf failed: 7 connections without a local port: all are in use"),
])
def test_what_an_open_loop_could_not_do(own, sentence):
    _, reason = tools.TOOLS["httperf"].parse(httperf({}, own))
    assert reason.startswith(sentence)
    assert tools.parsed("httperf", [{**httperf({}), "processes": b"2\n"}])[1].startswith(
        "httperf failed: ")


def test_an_open_loop_is_not_judged_by_its_cpu_time():
    metrics = {"failed": 0, "requests": 1, "loadgen_busy_pct": 100}
    assert verdicts.invalid({"tool": "httperf"}, metrics, [], 0, None) is None
    assert verdicts.invalid({"tool": "ab"}, metrics, [], 0, None)
