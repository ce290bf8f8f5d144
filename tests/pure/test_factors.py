# SPDX-License-Identifier: GPL-2.0-only
"""Everything is a factor: parameter:NAME and sysctl:NAME, and the setups of the ideas."""
import json

import pytest

import contract
import measure
import plan
import run as runner
from made import TINY, fill, planned, planned_of, program, summary_of
from test_sweep import EXPERIMENTS, ROOT

POOL = "parameter:enable_socket_pool_size"


def resolved(name, *settings):
    return plan.resolve(name, "quick", list(settings))


@pytest.mark.parametrize("setting", [f"{POOL}=0,16,64,256", "sysctl:net.ipv4.tcp_early_demux=1,0",
                                     "workers=1,4,8,16,24", "cores=1,2,4,8", "tool=wrk"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_takes_them(name, setting):
    """Gives the reason in one sentence if nothing can be varied."""
    try:
        one = resolved(name, setting)
    except plan.PlanError as error:
        # wrk is not a tool of Redis, has no rate, and cannot be counted.
        only_counts = plan.load(name)["profiles"]["quick"]["rounds"] == 0
        assert (name, setting.partition("=")[0]) in (
            ("null", POOL), ("redis", "tool"), ("latency", "tool"),
            *([(name, "tool")] if only_counts else []))
        assert len(str(error)) > 40
        return
    assert set(one["factors"]) == {"setup", "tool", "concurrency", "workers"}
    names = [cell["cell"] for cell in plan.cells(one)]
    assert len(set(names)) == len(names) and not [cell for cell in names if "/" in cell]
    for setup in one["setups"].values():
        for other in [setup.get("baseline"), *setup.get("against", [])]:
            assert other is None or other in one["setups"], other
    assert one["server_cores"] in (8, 16, 24, "workers", 1)


def test_a_parameter_is_nothing_to_what_runs_without_the_module():
    one = resolved("alternatives", f"{POOL}=0,16", "setup=shared,fastsocket,kernel", "null=0")
    assert one["factors"]["setup"] == [
        "shared", "fastsocket+enable_socket_pool_size=0", "fastsocket+enable_socket_pool_size=16",
        "kernel"]
    ours = one["setups"]["fastsocket+enable_socket_pool_size=16"]
    assert ours["parameters"] == {"enable_listen_spawn": 2, "enable_socket_pool_size": 16}
    assert ours["text"] == "with Fastsocket, enable_socket_pool_size 16"
    # The level is compared with the base level, and that with the setup's usual baseline.
    assert ours["baseline"] == "fastsocket+enable_socket_pool_size=0"
    assert ours["against"] == ["shared"]
    assert "baseline" not in one["setups"]["fastsocket+enable_socket_pool_size=0"]
    assert (one["without"], one["with"]) == ("shared", "fastsocket+enable_socket_pool_size=0")
    # This also holds for counting.
    assert one["counts"]["setup"] == ["shared", "fastsocket+enable_socket_pool_size=0",
                                      "fastsocket+enable_socket_pool_size=16", "kernel"]


def test_the_baseline_says_which_level_is_the_base():
    experiment = plan.load("seed-demo")
    experiment["factors"].update({"setup": ["shared", "fastsocket"], POOL: [0, 64],
                                  "sysctl:net.x": [1, "b"]})
    experiment["baseline"][POOL] = 64
    experiment["skip"] = [{POOL: 0, "sysctl:net.x": "b"}]
    plan.factors_of.spread(experiment)
    assert experiment["baseline"] == {"setup": "shared+net.x=1"}
    assert experiment["reference"]["time_s"] == {
        "shared+net.x=1": 13.257, "fastsocket+enable_socket_pool_size=64+net.x=1": 4.736}
    setups = experiment["setups"]
    base = "fastsocket+enable_socket_pool_size=64+net.x=1"
    assert setups["fastsocket+enable_socket_pool_size=0+net.x=b"]["baseline"] == base
    assert setups["shared+net.x=b"]["baseline"] == "shared+net.x=1"
    assert setups["fastsocket+enable_socket_pool_size=64+net.x=b"]["against"] == ["shared+net.x=b"]
    assert setups[base]["sysctls"] == {"net.x": 1}
    assert experiment["skip"] == [{"setup": ["fastsocket+enable_socket_pool_size=0+net.x=b"]}]


def test_a_number_of_cores_is_a_boot_with_as_many_workers():
    """The file may say so, too, and result files stay what they are."""
    assert resolved("null", "cores=1,2,4") == resolved("null", "workers=1,2,4",
                                                       "server_cores=workers")
    new = resolved("cores")
    old = json.loads(next((ROOT / "results/cores").glob("*Z/run.json")).read_text())["plan"]
    assert (new["factors"], new["server_cores"]) == (old["factors"], "workers")
    assert [cell["cell"] for cell in plan.cells(new)] == [cell["cell"] for cell in plan.cells(old)]
    experiment = {"factors": {"cores": [1, 2]}, "baseline": {"cores": 1}, "perf": {"cores": [2]},
                  "skip": [{"cores": 2, "tool": "ab"}]}
    plan.factors_of.cores_to_workers(experiment)
    assert experiment == {
        "factors": {"workers": [1, 2]}, "baseline": {"workers": 1}, "perf": {"workers": [2]},
        "skip": [{"workers": 2, "tool": "ab"}], "server_cores": "workers"}


@pytest.mark.parametrize("other", ["workers", "server_cores"])
def test_cores_are_not_given_with_what_they_say(other):
    sentence = f"cores and {other}: a server has as many workers as cores .*: leave {other} out"
    with pytest.raises(plan.PlanError, match=sentence):
        resolved("null", "cores=1,2", f"{other}=2")
    experiment = {"factors": {"cores": [1, 2], "workers": [2]}, "server_cores": 8}
    del experiment["factors" if other == "server_cores" else "server_cores"]
    experiment.setdefault("factors", {"cores": [1, 2]})
    with pytest.raises(plan.PlanError, match=sentence):
        plan.factors_of.cores_to_workers(experiment)


@pytest.mark.parametrize("settings, sentence", [
    (["cores=1,2", "rounds=auto"], "cores, or server_cores: workers, has a boot for each number"),
    (["cores=1,2", "kernel=6.1"], "kernel: each is a boot: give rounds and server_cores as"),
    (["parameter:enable_listen_spwan=1"], "parameter enable_listen_spwan: there is none of that "
                                          "name: give one of enable_direct_tcp"),
    ([f"{POOL}=a"], f"{POOL}: level a: give whole numbers from 0"),
    ([f"{POOL}=1,1"], f"{POOL}: level 1 is given twice"),
    (["workers=2,2"], "workers: level 2 is given twice"),
    (["sysctl:net=1"], "sysctl:net: give the name of a sysctl, with dots"),
    (["sysctl:net.x=a b"], "sysctl:net.x: level a b: give values of one word"),
    (["sysctl:net.x=../y"], "sysctl:net.x: level ../y: give values of one word"),
    (["sysctls:net.x=1"], "factor or profile key sysctls:net.x: there is none"),
    ([f"{POOL}=1", "setup=shared"], f"{POOL}: no setup that is measured runs under the library"),
    (["setup=fast"], "setup fast: there is none of that name: give one of cbpf, "),
    (["tool=wrk", "rounds=0"], "the factors leave nothing to measure"),
])
def test_bad_levels(tmp_path, settings, sentence):
    args = [word for setting in settings for word in ("--set", setting)]
    done = program("experiments/plan.py", "seed-demo", *args, "--results", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"plan: {sentence}"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


def test_seconds_are_not_counted():
    """A tool that is told how long it is to run cannot be told how many requests."""
    one = resolved("alternatives", "tool=wrk")
    assert one["count_repetitions"] and not [
        step for step in plan.steps(one, 1) if str(step["repetition"]).startswith("c")]


def test_levels_reach_the_server_and_are_read_back():
    one = resolved("seed-demo", f"{POOL}=16", "sysctl:net.core.busy_poll=5")
    setup = one["setups"]["fastsocket+enable_socket_pool_size=16+net.core.busy_poll=5"]
    sweep = object.__new__(runner.Sweep)
    sweep.parameters = {"enable_socket_pool_size": "0"}
    sweep.nic, sweep.backend = "eth0", {"address": "192.0.2.2:8080"}
    wanted = sweep.state(setup, 1)
    assert wanted[POOL] == 16 and wanted["sysctl:net.core.busy_poll"] == 5
    readback = (b"worker 7 0\npreloaded 1\nchosen rfs 0\nchosen sysctl:net.core.busy_poll 5\n"
                b"parameter enable_listen_spawn 2\nparameter enable_socket_pool_size %d\n")
    for found, complaint in ((16, None), (8, "parameter enable_socket_pool_size is 8, not 16")):
        state = measure.server_state(readback % found)
        assert measure.state_mismatch(state, wanted, {}) == complaint


def test_a_run_over_levels_to_its_tables_and_figures(tmp_path):
    """The columns are those of any run; ratios are to the base level."""
    run = planned(tmp_path, *TINY, "--set", f"{POOL}=0,64")
    plain = contract.read_run(planned(tmp_path, *TINY))["plan"]["factors"]
    facts = contract.read_run(run)
    assert contract.sample_columns(facts["plan"]["factors"]) == contract.sample_columns(plain)
    fill(run, {"shared": [100, 100, 100], "fastsocket+enable_socket_pool_size=0": [150, 150, 150],
               "fastsocket+enable_socket_pool_size=64": [300, 300, 300]})
    output, rows = summary_of(run)
    assert float(rows["fastsocket+enable_socket_pool_size=64"]["throughput_rps_ratio"]) == 2
    assert float(rows["fastsocket+enable_socket_pool_size=0"]["throughput_rps_ratio"]) == 1.5
    # The seed's figures are below the pair; the base level is compared with setups without module.
    assert "4.736 s" in output and "| 1.50 times as fast |" in output
    against = (run / "tables/against.md").read_text()
    assert "fastsocket+enable_socket_pool_size=0 | shared | 1.50 |" in against
    assert "fastsocket+enable_socket_pool_size=64 | shared | 3.00 |" in against
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr


def test_roles_may_have_any_name(tmp_path):
    experiment = plan.load("seed-demo")
    del experiment["with"]
    with pytest.raises(plan.PlanError, match="without, with: one is given alone"):
        plan.check(experiment)
    experiment["with"] = "mine"
    with pytest.raises(plan.PlanError, match="with: setup mine: there is none"):
        plan.check(experiment)
    run = planned_of(tmp_path, "own", "--set", "rounds=2", "--set", "null=0",
                     "--set", "count_repetitions=0")
    facts = contract.read_run(run)
    del facts["plan"]["pairs"]
    facts["plan"].update({"without": "own", "with": "own-fastsocket"})
    facts["plan"]["reference"]["time_s"] = {"own": 2.0, "own-fastsocket": 1.0}
    contract.write_run(run, facts)
    fill(run, {"own": [100, 100], "own-fastsocket": [130, 130], "own-kernel": [120, 120]})
    output, _ = summary_of(run)
    assert "| 2.0 s | 1.0 s | 2.00 times as fast |" in output
    assert "| own-fastsocket | own-kernel | 1.08 |" in (run / "tables/against.md").read_text()


def test_the_ideas_make_the_setups_of_committed_runs():
    """Everything is defined once; names and parameters stay what they were."""
    run = sorted((ROOT / "results/parameters").glob("*Z"))[-1]
    old = json.loads((run / "run.json").read_text())["plan"]["setups"]
    new = resolved("parameters")["setups"]
    assert set(new) - {"again"} == set(old) - {"again"}
    # The module's defaults; skb_pool had other levels, and skb no sending, in that run.
    defaults = {"enable_fast_epoll": 1, "enable_listen_spawn": 2}
    for name in set(old) - {"all"} - {name for name in old if name.startswith("not-")}:
        assert {**defaults, **new[name].get("parameters", {})} == {
            **defaults, **old[name].get("parameters", {})}, name
        assert new[name].get("baseline") == old[name].get("baseline")
    one = resolved("alternatives")["setups"]["all"]["parameters"]
    assert one == resolved("locks")["setups"]["all"]["parameters"] == new["all"]["parameters"]
    assert len(one) == 8 and one["enable_skb_pool"] == 3
    for name in (name for name in new if name.startswith("not-")):
        differing = {key for key in {**one, **new[name]["parameters"]}
                     if one.get(key) != new[name]["parameters"].get(key)}
        assert len(differing) == 1 and new[name]["baseline"] == "all"


def test_a_rate_is_in_the_column_of_connections(tmp_path):
    """As result files have the same columns; an experiment, its selectors, and --set say rate."""
    one = resolved("latency", "rate=100,2000", "null=0")
    assert one["factors"]["concurrency"] == [100, 2000] and "rate" not in one["factors"]
    experiment = plan.load("latency")
    experiment["skip"], experiment["perf"] = [{"rate": 200, "setup": "cbpf"}], {"rate": [400]}
    plan.factors_of.rate_to_column(experiment)
    assert experiment["skip"] == [{"concurrency": 200, "setup": "cbpf"}]
    assert experiment["perf"] == {"concurrency": [400]}
    run = planned_of(tmp_path, "latency", "--set", "rounds=2")
    fill(run, {name: [100, 100] for name in contract.read_run(run)["plan"]["setups"]})
    output, _ = summary_of(run)
    assert "httperf 200/s, 8 workers" in output
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    assert "connections opened per second" in (run / "figures/concurrency.svg").read_text()


@pytest.mark.parametrize("name, settings, sentence", [
    ("latency", ["tool=ab"], "ab cannot be told a rate: give one of httperf"),
    ("latency", ["concurrency=100"], "rate and concurrency: an open loop has no number"),
    ("latency", ["rate=0"], "rate 0: give whole numbers from 1"),
    ("seed-demo", ["tool=httperf"], "httperf is told a rate: give the factor rate"),
    ("seed-demo", ["rate=100"], "ab cannot be told a rate"),
    ("seed-demo", ["tool=hey"], "tool hey: there is none of that name: give one of ab, httperf"),
])
def test_open_and_closed_loops_are_not_mixed(name, settings, sentence):
    with pytest.raises(plan.PlanError, match=sentence):
        resolved(name, *settings)
