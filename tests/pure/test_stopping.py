# SPDX-License-Identifier: GPL-2.0-only
"""rounds: auto stops at the right round, gives the reason, and its intervals contain the truth."""
import math

import numpy as np
import pytest

import contract
import intervals
import samples
import stopping
from fill import ROOT
from made import planned, sample
from test_sweep import TINY

AUTO = [*TINY, "--set", "rounds=auto", "--set", "perf_repetitions=0"]


def measured(run, rates):
    """Finishes the rounds of rates: [(shared, fastsocket)]."""
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": "x", "first_order": 1}]
    contract.write_run(run, facts)
    for order, step in enumerate(contract.read_plan(run), 1):
        if int(step["repetition"]) <= len(rates):
            rate = rates[int(step["repetition"]) - 1][step["setup"] == "fastsocket"]
            sample(run, step, order, rate)


def ended(tmp_path, rates, *args):
    run = planned(tmp_path, *AUTO, *args)
    measured(run, rates)
    return run, stopping.end(run, contract.read_run(run)["plan"], len(rates))


def test_a_plan_has_steps_up_to_the_bound(tmp_path):
    run = planned(tmp_path, *AUTO, "--set", "rounds_max=20")
    assert len(contract.read_plan(run)) == 2 * 20


def test_narrow(tmp_path):
    rates = [(100, 120 + number % 2) for number in range(8)]
    run, end = ended(tmp_path, rates)
    assert end == {"round": 8, "why": "the interval of fastsocket to shared is within 5 % after 8 "
                                      "rounds"}
    facts = contract.read_run(run)
    contract.write_run(run, {**facts, "rounds_end": end})
    # The other 52 are no longer wanted.
    assert not contract.unfinished(run)


@pytest.mark.parametrize("rates", [
    [(100, 120)] * 7,                               # too few, however alike
    [(100, 120 + 40 * (n % 2)) for n in range(8)],  # too wide
    [(100, 120)] * 7 + [(100, 200)],                # was narrow before
])
def test_not_yet(tmp_path, rates):
    assert ended(tmp_path, rates)[1] is None


def test_the_bound(tmp_path):
    _, end = ended(tmp_path, [(100, 120 + 60 * (n % 2)) for n in range(9)], "--set",
                   "rounds_max=9")
    assert end["why"] == "the bound of 9 rounds is reached, and the interval is wider than 5 %"


def stopped(draw, noise, effect, most=60):
    """Log ratios of a run with rounds: auto."""
    logs = effect + noise(draw, most)
    for number in range(stopping.FIRST, most):
        if all(stopping.narrow(np.exp(logs[:n]), [1] * n, stopping.TARGET_PCT)
               for n in (number, number - 1)):
            return logs[:number]
    return logs


def test_stopping_leaves_the_intervals_honest():
    draw = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        logs = stopped(draw, lambda draw, size: draw.normal(0, 0.08, size), math.log(1.2))
        one = intervals.ratio(np.exp(logs), [1] * len(logs))
        inside += one.low <= 1.2 <= one.high
    assert inside / 400 >= 0.92


def recorded_noise():
    """Log ratios within rounds of committed runs in which nothing differed."""
    logs = []
    for run in sorted((ROOT / "results/null").glob("*T*Z")):
        rows = samples.read(run)
        first, other = contract.read_run(run)["plan"]["factors"]["setup"][:2]
        logs += list(np.log(samples.pairs(rows, other, first, "throughput_rps")["ratio"]))
    return np.array(logs) - np.mean(logs)


def test_a_slow_down_of_a_tenth_is_found():
    """Uses recorded noise, drawn again in another order."""
    noise, draw = recorded_noise(), np.random.default_rng(4)
    assert len(noise) >= 20
    found = 0
    for _ in range(100):
        logs = stopped(draw, lambda draw, size: draw.choice(noise, size), math.log(0.9))
        found += intervals.verdicts([intervals.ratio(np.exp(logs), [1] * len(logs))]) == ["below"]
    assert found >= 95


def test_null_cells_of_committed_runs_are_seldom_flagged():
    """A/A comparisons with a verdict, timed or counted: one in twenty at most, or a single one."""
    from study import Study
    flagged = compared = 0
    for path in sorted((ROOT / "results").glob("*/*T*Z/samples.csv")):
        study = Study(path.parent)
        pair = study.null_pair()
        for column in ("throughput_rps", "line_transfers_per_req"):
            one = study.ratio(*pair, column) if pair else None
            if one and one.p_different is not None:
                compared += 1
                flagged += one.p_different <= 0.05
    assert compared and flagged <= max(1, compared / 20)
