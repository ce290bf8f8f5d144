# SPDX-License-Identifier: GPL-2.0-only
"""The sweep's programs on files alone: plan, parse, resume, summarise, draw."""
import csv
import lzma
import shutil
from pathlib import Path

import pytest

import contract
import measure
import plan
import proc
import profiles
import run as runner
from made import TINY, fill, planned, program, sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("args, sentence", [
    (["seed-dmo"], "plan: experiment seed-dmo: there is none of that name: "
                   "give one of alternatives, concurrency, "),
    (["seed-demo", "--profile", "fast"], "plan: profile fast: there is none of that name: "
                                         "give one of full, quick\n"),
    (["seed-demo", "--set", "worker=4"], "plan: factor or profile key worker: there is none"),
    (["seed-demo", "--set", "setup=slow"], "plan: setup slow: there is none of that name: "
                                           "give one of cbpf, fastsocket, kernel"),
    (["seed-demo", "--set", "concurrency=0"], "plan: concurrency 0: give whole numbers"),
    (["seed-demo", "--set", "rounds=x"], "plan: rounds=x: give one whole number"),
    (["cores", "--set", "boots=2"], "plan: cores, or server_cores: workers, has a boot for each"),
])
def test_bad_plans(tmp_path, args, sentence):
    done = program("experiments/plan.py", *args, "--results", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(sentence), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_more_workers_than_cores():
    """In the file it is an error; with --set, the server has to have as many cores."""
    experiment = plan.load("seed-demo")
    experiment["factors"]["workers"] = [9]
    with pytest.raises(plan.PlanError, match="workers 9: more than the server's cores, 8"):
        plan.check(experiment)
    assert plan.resolve("seed-demo", "quick", ["workers=1,9"])["server_cores"] == 9
    assert plan.resolve("seed-demo", "quick", ["workers=1,2"])["server_cores"] == 8
    # A server that has fewer.
    fewer = ["server_cores=2", "workers=1,2"]
    for settings in (fewer, fewer[::-1]):
        assert plan.resolve("seed-demo", "quick", settings)["server_cores"] == 2
    assert plan.resolve("counts", "quick", ["server_cores=workers"])["server_cores"] == "workers"
    for setting in ("server_cores=0", "server_cores=2,4", "server_cores=x"):
        with pytest.raises(plan.PlanError, match=f"{setting}: give one number from 1, or workers"):
            plan.resolve("seed-demo", "quick", [setting])


def test_misspelled_parameter():
    experiment = plan.load("seed-demo")
    experiment["setups"]["fastsocket"]["parameters"] = {"enable_listen_spwan": 1}
    with pytest.raises(plan.PlanError, match="parameter enable_listen_spwan.*enable_listen_spawn"):
        plan.check(experiment)


@pytest.mark.parametrize("setup, sentence", [
    ({"server": "apache"}, "server apache: there is none.*demo, demo-proxy, haproxy, nginx"),
    ({"server": "nginx", "mode": "cbpf"}, "mode cbpf: there is none.*reuseport, shared"),
    ({"mod": "shared"}, "key mod: there is none"),
    ({"rfs": 1}, "rfs 1: give true or false"),
    ({"rps": True}, "rps True: there is none.*workers"),
    ({"sysctls": {"net.core.x": "1\t2"}}, "sysctl net.core.x: 1\t2: give a name"),
    ({"sysctls": {"net.core.x": ""}}, "sysctl net.core.x: : give a name"),
    ({"sysctls": {"net;x": 1}}, "sysctl net;x: 1: give a name"),
    ({"baseline": "none"}, "baseline none: there is none"),
    ({"against": ["shared", "none"]}, "against none: there is none"),
    ({"successor": "RFS"}, "successor without idea"),
    ({"halt_s": 0}, "halt_s 0: give 1 to 60 seconds"),
    ({"server": "haproxy", "halt_s": 2}, "halt_s 2: .* processes: .*demo, demo-proxy, nginx, ng"),
    ({"preload": True, "backend": "bpf"}, "backend bpf: there is none.*kernel, module"),
    ({"backend": "kernel"}, "backend kernel is the library's, .* give preload true"),
    ({"preload": True, "backend": "kernel", "mode": "cbpf"}, "backend kernel is the library's"),
    ({"environment": {"A": "1 2"}}, "environment A: 1 2: give a name, other than"),
    ({"environment": {"FSOCKET_BACKEND": "auto"}}, "environment FSOCKET_BACKEND: auto: give"),
    ({"server": "redis"}, "setup fastsocket: ab does not speak to this server: "),
])
def test_bad_setups(setup, sentence):
    experiment = plan.load("seed-demo")
    experiment["setups"]["fastsocket"] = setup
    with pytest.raises(plan.PlanError, match=sentence):
        plan.check(experiment)


EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.yml"))


@pytest.mark.parametrize("profile", ["quick", "full"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment(name, profile):
    """Each can be planned and has a question; quick takes at most 8 minutes in the lab."""
    one = plan.resolve(name, profile, [])
    assert one["question"] and one["reference"]["text"]
    assert set(one["setups"]) == set(one["factors"]["setup"])
    assert bool(one.get("counts")) == bool(one.get("count_repetitions"))
    names = [cell["cell"] for cell in plan.cells(one)]
    assert len(set(names)) == len(names)
    if profile == "quick":
        assert plan.seconds(one, plan.steps(one, 1)) < 8 * 60
    told = plan.announcement(one, plan.steps(one, 1), None)
    assert one["question"].strip() in told and f"{len(plan.steps(one, 1))} repetitions" in told


def test_watched_repetitions():
    one = plan.resolve("seed-demo", "quick", ["rounds=1", "perf_repetitions=2", "null=0",
                                              "lock_repetitions=3", "count_repetitions=0"])
    # Not where the experiment names no cells for them.
    marks = [step["repetition"] for step in plan.steps(one, 1)][11:]
    assert marks == ["p1", "p1", "p2", "p2"]
    one["locks"] = {"setup": ["cbpf"], "tool": "wrk"}
    marks = [step["repetition"] for step in plan.steps(one, 1)][11:]
    assert marks == ["p1", "p1", "p2", "p2", "l1", "l2", "l3"]
    # Counting repetitions come first.
    one["count_repetitions"] = 2
    marks = [step["repetition"] for step in plan.steps(one, 1)]
    assert marks[:9] == ["c1"] * 4 + ["c2"] * 4 + [1]


def sweep_state(setup, workers=4, slower=1, **parameters):
    sweep = object.__new__(runner.Sweep)
    sweep.parameters = {"enable_listen_spawn": "2", "enable_x": "0", **parameters}
    sweep.nic, sweep.backend = "eth0", {"address": "192.0.2.2:8080"}
    return sweep.state(setup, workers, slower)


def test_every_parameter_of_the_module_is_declared():
    words = sweep_state({"preload": True, "parameters": {"enable_x": 3},
                         "sysctls": {"net.ipv4.tcp_early_demux": 0}, "rfs": True})
    assert words == {
        "server": "demo", "workers": 4, "port": 80, "listeners": 1, "told": "children",
        "says": "ready:", "pin": 0, "config": "", "preload": 1, "library": "module",
        "nic": "eth0", "rfs": 1, "rps": 0, "parameter:enable_listen_spawn": "2",
        "parameter:enable_x": 3, "sysctl:net.ipv4.tcp_early_demux": 0}
    assert sweep_state({})["parameter:enable_x"] == "0"
    assert sweep_state({"rps": "workers"})["rps"] == "workers"


@pytest.mark.parametrize("setup, slower, expected", [
    ({}, 1, {"parameter:steal_after_ms": "8"}),
    ({}, 50, {"parameter:steal_after_ms": 400}),
    ({"preload": True, "parameters": {"steal_after_ms": 1000}}, 50,
     {"parameter:steal_after_ms": 10000}),
    ({"preload": True, "backend": "kernel"}, 50,
     {"parameter:steal_after_ms": 400, "environment:FSOCKET_STEAL_AFTER_MS": 500}),
    ({"preload": True, "backend": "kernel", "environment": {"FSOCKET_STEAL_AFTER_MS": 20}}, 50,
     {"parameter:steal_after_ms": 400, "environment:FSOCKET_STEAL_AFTER_MS": 1000}),
    ({"preload": True, "backend": "kernel", "environment": {"FSOCKET_STEAL_AFTER_MS": 20}}, 1,
     {"parameter:steal_after_ms": "8", "environment:FSOCKET_STEAL_AFTER_MS": 20})])
def test_a_server_that_counting_slows_is_late_as_much_later(setup, slower, expected):
    words = sweep_state(setup, slower=slower, steal_after_ms="8")
    assert {name: value for name, value in words.items() if "steal" in name.lower()} == expected


@pytest.mark.parametrize("setup, lines", [
    ({"server": "nginx"}, ["worker_processes 4;", "listen 80 backlog=65535 ;",
                           'return 200 "ok\\n";']),
    ({"server": "nginx-proxy", "mode": "reuseport"},
     ["listen 80 backlog=65535 reuseport;", "proxy_pass http://192.0.2.2:8080;"]),
    ({"server": "haproxy"}, ["cpu-map auto:1/1-4 0-3", "server backend 192.0.2.2:8080"]),
    ({"server": "haproxy", "mode": "reuseport"}, ["bind :80 shards by-thread"]),
])
def test_configurations(setup, lines):
    config = [line.strip() for line in sweep_state(setup)["config"].splitlines()]
    assert set(lines) <= set(config)
    assert not [line for line in config if "@" in line and not line.startswith("#")]


def test_rounds_hold_every_cell_once_shuffled(tmp_path):
    run = planned(tmp_path, "--set", "rounds=5", "--set", "null=0", "--set",
                  "count_repetitions=0", "--set", "perf_repetitions=3", "--seed", 7)
    steps = contract.read_plan(run)
    cells = sorted({step["cell"] for step in steps})
    assert len(cells) == 11
    orders = []
    for number in range(5):
        one = steps[number * 11:(number + 1) * 11]
        assert {step["repetition"] for step in one} == {str(number + 1)}
        assert sorted(step["cell"] for step in one) == cells
        orders.append([step["cell"] for step in one])
    assert orders[1] == orders[0][::-1] and orders[3] == orders[2][::-1]
    assert len(set(map(tuple, orders))) == 5
    assert [step["repetition"] for step in steps[55:]] == ["p1", "p1", "p2", "p2", "p3", "p3"]


def test_the_seed_decides_the_order(tmp_path):
    runs = [planned(tmp_path / str(i), "--seed", seed) for i, seed in enumerate([1, 1, 2])]
    texts = [(run / "plan.csv").read_text() for run in runs]
    assert texts[0] == texts[1] != texts[2]


def test_resuming(tmp_path):
    run = planned(tmp_path, *TINY)
    assert planned(tmp_path, *TINY) == run
    steps = contract.read_plan(run)
    sample(run, steps[0], 1, 100)
    sample(run, steps[1], 2, 100, valid=0)
    left = contract.unfinished(run)
    # An invalid repetition has attempts left.
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


def test_counters():
    before = proc.snmp(b"Tcp: A RetransSegs\nTcp: 1 2\nTcpExt: X ListenOverflows\nTcpExt: 0 7\n")
    assert before == {"TcpA": 1, "TcpRetransSegs": 2, "TcpExtX": 0, "TcpExtListenOverflows": 7}


def test_busy_shares():
    before = b"cpu  9 9\ncpu0 10 0 10 100 0 0 0 0 5 0\ncpu1 0 0 0 50 50 0 0 0 0 0\nintr 1\n"
    after = b"cpu  9 9\ncpu0 40 0 30 150 0 0 0 0 9 0\ncpu1 0 0 0 50 50 0 0 0 0 0\nintr 1\n"
    assert proc.busy_shares(before, after) == {0: 50, 1: None}


def test_spin_share_is_of_what_is_not_idle():
    report = (b"    60.00%  [k] native_safe_halt        -      -\n"
              b"    10.00%  [k] native_queued_spin_lock_slowpath  -  -\n"
              b"    30.00%  [k] tcp_ack\n")
    assert profiles.spin_share(report) == 25


STATE = ("worker 7 0\nworker 8 1\npreloaded 2\nparameter p 2\nchosen rfs 0\n"
         "chosen sysctl:net.b 7\nchosen sysctl:net.r 1\t2\nsysctl net.a 5\nqueues eth0 2\n")


@pytest.mark.parametrize("change, complaint", [
    (("", ""), None),
    (("worker 8 1", "worker 8 0-1"), "workers run on cores"),
    (("worker 8 1", "worker 8 0"), "workers run on cores"),
    (("preloaded 2", "preloaded 1"), "1 of 2 workers have libfsocket.so loaded"),
    (("p 2", "p 1"), "parameter p is 1, not 2"),
    (("net.b 7", "net.b 8"), "sysctl net.b is 8, not 7"),
    (("net.r 1\t2", "net.r 1\t3"), "sysctl net.r is 1 3, not 1 2"),
    (("rfs 0", "rfs partly"), "rfs is partly, not 0"),
    (("eth0 2", "eth0 1"), "queues eth0 is 1, and was 2 before"),
])
def test_state_is_checked(change, complaint):
    settings = measure.server_state(STATE.encode())["settings"]
    state = measure.server_state(STATE.replace(*change).encode() if change[0] else STATE.encode())
    wanted = {"preload": 1, "library": "module", "workers": 2, "parameter:p": 2,
              "sysctl:net.b": 7, "sysctl:net.r": "1 2", "rfs": 0}
    found = measure.state_mismatch(state, wanted, settings)
    assert (found or "").startswith(complaint or "") and bool(found) == bool(complaint)


IN_FORCE = "backend sockets 3\nbackend devices 0\nbackend module 0\n"


@pytest.mark.parametrize("change, found", [
    (("", ""), "kernel"),
    # The library has found no way to a group.
    (("sockets 3", "sockets 1"), "none"),
    (("sockets 3", "sockets 2"), "none"),
    # The module's device was there, or its listeners took connections.
    (("devices 0", "devices 2"), "module"),
    (("module 0", "module 7"), "module"),
])
def test_the_backend_is_read_back(change, found):
    state = measure.server_state((STATE + IN_FORCE.replace(*change)).encode())
    assert measure.backend(state["backend"], 2) == found
    wanted = {"preload": 1, "library": "kernel", "workers": 2}
    complaint = measure.backend_mismatch(state["backend"], wanted)
    assert complaint is None if found == "kernel" else complaint.startswith(
        "the kernel backend is not in force: ")
    for other in ({"library": "module"}, {"preload": 0}):
        assert measure.backend_mismatch(state["backend"], {**wanted, **other}) is None


def test_one_worker_has_no_group():
    assert measure.backend({"sockets": 1, "devices": 0, "module": 0}, 1) == "kernel"
    assert measure.backend({}, 1) == "none"


def counters(ticks, overflows=0, accepts=0, warnings=b"", syns=0, idle=0):
    return {
        "/proc/stat": b"cpu0 %d 0 0 %d 0 0 0 0\ncpu1 %d 0 0 %d 0 0 0 0\nctxt %d\n" % (
            ticks, ticks * idle, ticks, ticks * idle, ticks),
        "/proc/net/snmp": b"Tcp: RetransSegs\nTcp: 0\n",
        "/proc/net/netstat": b"TcpExt: ListenOverflows TCPSynRetrans\nTcpExt: %d %d\n"
                             % (overflows, syns),
        "/proc/net/fastsocket":
            b"cpu accept_local accept_global accept_remote accept_covered\n0 %d 0 1 0\n"
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


CELL = {"tool": "ab", "setup": "fastsocket", "workers": "2", "concurrency": "1"}
PLAN = {"setups": {"fastsocket": {"preload": True}}, "saturates": True}


def test_sample():
    metrics, reason = measure.sample(CELL, PLAN, [load()], counters(0), counters(100, 3, 99),
                                     None, True)
    assert reason is None
    assert metrics == {
        "requests": 10, "failed": 0, "time_s": 2, "throughput_rps": 5, "latency_p50_ms": 1.5,
        "latency_p90_ms": 2.5, "latency_p99_ms": 3.5, "latency_p999_ms": 9,
        "latency_max_ms": 9, "connect_p99_ms": 3,
        "latency_mean_ms": 7, "held_connections": 0, "server_cpu_us_per_req": 200000,
        "loadgen_busy_pct": 50, "server_busy_pct": 100, "server_busy_min_pct": 100,
        "server_busy_max_pct": 100, "context_switches_per_req": 10, "listen_overflows": 3,
        "syn_retransmits": 0, "retransmits": 0, "local_accept_pct": 100}


@pytest.mark.parametrize("loaded, after, sentence", [
    (load(failed=2), counters(100), "2 requests failed"),
    (load(busy=0.99), counters(100), "the load generator was the bottleneck"),
    (load(idle=1), counters(100, idle=1), "not saturated: only 50 % busy"),
    (load(stolen=1), counters(100), "other virtual machines had 50 % of a host's time"),
    (load(), counters(100, warnings=b"[1] WARNING: x\n"), "the kernel warned: [1] WARNING: x"),
])
def test_invalid_samples(loaded, after, sentence):
    _, reason = measure.sample(CELL, PLAN, [loaded], counters(0), after, None, True)
    assert reason.startswith(sentence)


def test_perf_repetitions_are_not_timed():
    report = b"    10.00%  [k] native_queued_spin_lock_slowpath\n    40.00%  [k] tcp_ack\n"
    for seen in ({"report": report}, {"locks": SCRIPT, "syscalls": SYSCALLS}):
        metrics, reason = measure.sample(CELL, PLAN, [load()], counters(0), counters(100), seen,
                                         True)
        assert reason is None
        assert metrics.get("spin_pct") == (20 if "report" in seen else None)
        assert metrics.get("syscalls_per_req") == (6.5 if "locks" in seen else None)
        assert metrics.get("lock_contended_per_kreq") == (500 if "locks" in seen else None)
        assert not {name for name in metrics if name.startswith(("latency", "time", "through",
                                                                 "server_busy", "connect"))}


def test_a_busy_server_is_saturated_though_its_host_is_not():
    """One emulated core cannot fill a machine of two."""
    metrics, reason = measure.sample(CELL, PLAN, [load(idle=1)], counters(0), counters(100), None,
                                     True)
    assert reason is None and metrics["server_busy_pct"] == 100


SYSCALLS = b"# started on\n\n65,,raw_syscalls:sys_enter,system.slice/x.service,7,100.00,,\n"
# Ends have no stack; those of the idle threads of two CPUs are told apart.
SCRIPT = b"""server  1460 [005]  1.000100: fsbench:begin1: (ffffffff89a5a140) lock=0xff01
\tffffffff89a5a141 native_queued_spin_lock_slowpath
\tffffffff89a59ff9 _raw_spin_lock_bh
\tffffffff897b802e lock_sock_nested
\tffffffff89885bcb inet_csk_accept
\tffffffff898cb4a6 inet_accept

server  1461 [006]  1.000200: fsbench:begin1: (ffffffff89a5a140) lock=0xff01
\tffffffff89a5a141 native_queued_spin_lock_slowpath
\tffffffff89a59ff9 _raw_spin_lock_bh
\tffffffff897b802e lock_sock_nested
\tffffffff89885bcb inet_csk_accept

server  1460 [005]  1.000300:   fsbench:end1: (ffffffff89a5a140 <- ffffffff89a59ff9) x
server  1461 [006]  1.000500:   fsbench:end1: (ffffffff89a5a140 <- ffffffff89a59ff9) x
 swapper     0 [001]  2.000000: fsbench:begin1: (ffffffff89a5a140) lock=0xff02
\tffffffff89a5a141 native_queued_spin_lock_slowpath
\tffffffff89a5a025 _raw_spin_lock
\tffffffff8 tcp_v4_rcv

 swapper     0 [002]  2.000100: fsbench:begin1: (ffffffff89a5a140) lock=0xff03
\tffffffff89a5a141 native_queued_spin_lock_slowpath

 swapper     0 [001]  2.000200:   fsbench:end1: (ffffffff89a5a140 <- ffffffff89a59ff9) x
a worker  9 [003]  3.000000: lock:contention_begin: 0xff09 (flags=SPIN)
\tffffffff8 tcp_v4_rcv

a worker  9 [003]  3.000000: lock:contention_begin: 0xff08 (flags=MUTEX|SPIN)
\tffffffff8 __mutex_lock.constprop.0
\tffffffff8 do_epoll_ctl

a worker  9 [004]  3.000100: lock:contention_begin: 0xff08 (flags=MUTEX)
\tffffffff8 __mutex_lock.constprop.0
\tffffffff8 do_epoll_ctl

a worker  9 [003]  3.000400: lock:contention_end: 0xff09 (ret=0)
a worker  9 [004]  3.001000: lock:contention_end: 0xff08 (ret=0)
perf  7 [000]  4.000000: fsbench:begin1: (ffffffff89a5a140) lock=0xff02
\tffffffff8 native_queued_spin_lock_slowpath
\tffffffff8 pipe_read
"""


def test_locks_by_place():
    places = {key: (count, round(wait)) for key, (count, wait) in
              profiles.lock_places(SCRIPT).items()}
    assert places == {
        ("spin", "lock_sock_nested", "inet_csk_accept"): (2, 500),
        ("spin", "tcp_v4_rcv", "unknown"): (1, 200),
        # Never ended.
        ("spin", "unknown", "unknown"): (1, 0),
        ("mutex spin", "do_epoll_ctl", "unknown"): (1, 1000)}
    files = profiles.watched_files({"locks": SCRIPT, "syscalls": SYSCALLS})
    assert files["locks.csv"].splitlines()[:2] == [
        b"kind,function,caller,contended,wait_us", b"spin,lock_sock_nested,inet_csk_accept,2,500.0"]


def test_spinning_by_place():
    report = (b"    60.00%  [k] native_safe_halt        -      -\n"
              b"    10.00%  [k] native_queued_spin_lock_slowpath  -  -\n"
              b"    30.00%  [k] tcp_ack\n")
    spinning = (b"    10.00%  [k] native_queued_spin_lock_slowpath  -  -\n"
                b"6.00% native_queued_spin_lock_slowpath;_raw_spin_lock_bh;lock_sock_nested;"
                b"inet_csk_accept;inet_accept\n"
                b"4.00% native_queued_spin_lock_slowpath;_raw_spin_lock;tcp_v4_rcv;ip_rcv\n")
    files = profiles.watched_files({"report": report, "spinning": spinning, "stacks": b""})
    assert files["spinning.csv"].decode().splitlines() == [
        "function,caller,busy_pct", "lock_sock_nested,inet_csk_accept,15.0",
        "tcp_v4_rcv,ip_rcv,10.0"]


def test_every_metric_is_a_documented_column():
    metrics, _ = measure.sample(CELL, PLAN, [load()], counters(0), counters(100, 0, 9), None,
                                True)
    assert set(metrics) <= set(contract.METRICS)


def test_unreachable_hosts(tmp_path):
    run = planned(tmp_path, *TINY)
    hosts = ('{"inventory": "x", "lab": false, "address": "127.0.0.1", '
             '"nic": "lo", "backend": {"program": "x", "address": "127.0.0.1:1", "state": "x"}, '
             '"server": ["ssh", "-oBatchMode=yes", "-p1", "127.0.0.1"], "loadgen": [["sh", "-c"]]}')
    done = program("experiments/run.py", run, "--hosts", hosts)
    assert done.returncode == 1
    assert "the server" in done.stderr and "refused" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(csv.reader((run / "samples.csv").open()))[1:] == []
