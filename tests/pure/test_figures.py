# SPDX-License-Identifier: GPL-2.0-only
"""What holds for all figures: colours, intervals, and files that stay."""
import math
import sys
from collections import Counter

import pytest
import yaml

import contract
import fill
import latencies
from made import ROOT, fill as finish, planned, program, sample, summary_of
from raws import Raw
from study import Study
from test_sweep import TINY

sys.path.insert(0, str(ROOT / "plots"))
import look  # noqa: E402 (its folder has to be named first)
import stacks  # noqa: E402
import times  # noqa: E402

RUNS = [(ROOT / path).parent for path in fill.committed("results/*/*/run.json")]
SETUPS = {path.stem: list(yaml.safe_load(path.read_text("utf-8"))["setups"])
          for path in (ROOT / "experiments").glob("*.yml")}
SETUPS |= {"/".join(run.parts[-2:]): list(contract.read_run(run)["plan"]["setups"])
           for run in RUNS}


@pytest.fixture(name="run")
def short_run(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "rounds=3")
    finish(run, {"shared": [100, 102, 98], "fastsocket": [150, 152, 148]})
    summary_of(run)
    return run


@pytest.mark.parametrize("name", SETUPS)
def test_each_setup_of_an_experiment_has_a_look_of_its_own(name):
    shared = [style for style, n in Counter(map(look.style, SETUPS[name])).items() if n > 1]
    assert not shared


def test_a_setup_with_rps_is_a_lighter_one_without():
    for setup in ("fastsocket", "cbpf", "shared", "nginx-fastsocket"):
        assert look.style(f"{setup}-rps")[0] == look.shaded(look.style(setup)[0], 0.5)


def test_groups_of_functions_have_no_colour_of_a_setup():
    setups = {look.style(setup)[0].upper() for names in SETUPS.values() for setup in names}
    assert not setups & {*stacks.COLOURS.values(), *stacks.UNKNOWN}


def test_no_interval_is_drawn_where_there_is_none(run):
    """Three rounds have none, and a bar of length 0 would look like a very certain value."""
    study = Study(run)
    load = times.loads_of(study)[0]
    median, *errors = times.values(study, load, "throughput_rps")["shared"]
    assert median == 100 and all(map(math.isnan, errors))
    assert times.error_bars(*([error] for error in errors)) is None
    assert times.errors((5.0, 4.0, 7.0)) == (1.0, 2.0)


def test_no_latencies_of_a_part_of_the_repetitions(run):
    """Those whose file was kept may be the fast ones."""
    study = Study(run)
    own = study.own("shared", "timed")
    for repetition in own["repetition"]:
        assert latencies.requests_by_latency(study, Raw(run), "shared") == []
        folder = run / "raw/shared" / repetition
        folder.mkdir(parents=True)
        (folder / "latencies.csv").write_text("time,ms,requests\ntotal,5,10\n")
    assert latencies.requests_by_latency(study, Raw(run), "shared") == [(5, 30)]


def test_drawing_a_run_again_leaves_its_comparisons(run):
    (run / "figures").mkdir()
    for name in ("compared-counts-1.png", "old.png"):
        (run / "figures" / name).write_bytes(b"")
    assert program("plots/plot.py", run).returncode == 0
    assert (run / "figures/compared-counts-1.png").exists()
    assert not (run / "figures/old.png").exists()


@pytest.mark.parametrize("rates, text", [
    # 100 requests/s with one worker: the data need a panel half as high as the line, or as high.
    ((100, 190, 300), ["ideal: 800 with 8 workers"]), ((100, 200, 850), [])])
def test_the_ideal_line_leaves_the_panel_with_a_label(tmp_path, rates, text):
    run = planned(tmp_path, *TINY, "--set", "workers=1,2,8", "--set", "setup=shared")
    for order, step in enumerate(contract.read_plan(run), 1):
        sample(run, step, order, dict(zip("128", rates))[step["workers"]])
    contract.write_run(run, {**contract.read_run(run),
                             "boots": [{"boot_id": "1", "first_order": 1}]})
    figure, axes = look.plt.subplots()
    try:
        axes.plot([1, 2, 8], rates)
        times.ideal(axes, Study(run))
        told = axes.texts
        assert [one.get_text() for one in told] == text
        assert axes.get_ylim()[1] < 1.1 * max(rates)
        # At the line, on the panel's upper edge.
        assert [one.xy for one in told] == [(axes.get_ylim()[1] / 100, axes.get_ylim()[1])
                                            for _ in text]
    finally:
        look.plt.close(figure)
