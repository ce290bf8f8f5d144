# SPDX-License-Identifier: GPL-2.0-only
"""Simulates how often the intervals contain the truth, and compares with 95 %."""
import math

import numpy as np
import pytest

import intervals

RUNS = 1000
# Two standard errors of a simulated share of 95 % in 1,000 runs are 1.4 %.
ENOUGH = 0.936

NOISE = {
    "normal": lambda draw, size: draw.normal(0, 0.15, size),
    "long tails": lambda draw, size: draw.laplace(0, 0.1, size),
    "a slow round now and then": lambda draw, size: draw.normal(0, 0.1, size)
    + (draw.random(size) < 0.1) * draw.choice([-0.4, 0.4], size),
}


def covered(draw, noise, rounds, boots, between):
    """Share of runs whose interval contains a true ratio of 1.2."""
    inside = 0
    for _ in range(RUNS):
        shift = draw.normal(0, between, boots)
        labels = np.arange(rounds) % boots
        logs = math.log(1.2) + shift[labels] + noise(draw, rounds)
        one = intervals.ratio(np.exp(logs), labels)
        inside += one.low <= 1.2 <= one.high
    return inside / RUNS


@pytest.mark.parametrize("rounds", [6, 12, 30])
@pytest.mark.parametrize("noise", NOISE)
def test_ratios_of_one_boot(noise, rounds):
    share = covered(np.random.default_rng(rounds), NOISE[noise], rounds, 1, 0)
    assert share >= ENOUGH


@pytest.mark.parametrize("rounds, boots", [(8, 4), (12, 6), (14, 6), (30, 10)])
def test_ratios_of_several_boots(rounds, boots):
    """A boot shifts all its rounds; 14 rounds do not spread evenly over 6 boots."""
    share = covered(np.random.default_rng(boots), NOISE["normal"], rounds, boots, 0.1)
    assert share >= ENOUGH


def test_rounds_taken_for_boots_would_promise_too_much(monkeypatch):
    """Boots are the unit, since intervals of pooled rounds miss the truth in one run of three."""
    monkeypatch.setattr(intervals, "BOOTS", 99)
    assert covered(np.random.default_rng(1), NOISE["normal"], 30, 4, 0.1) < 0.8


@pytest.mark.parametrize("rounds", [6, 7, 8, 12])
def test_medians(rounds):
    draw = np.random.default_rng(rounds)
    truth = math.log(2)
    inside = 0
    for _ in range(RUNS):
        _, low, high = intervals.median(draw.exponential(1, rounds))
        inside += low <= truth <= high
    assert inside / RUNS >= ENOUGH


def test_no_interval_of_few():
    assert intervals.median([3, 1, 2, 5, 4]) == (3, None, None)
    assert intervals.median([3, 1, 2, 5, 4, 6]) == (3.5, 1, 6)
    one = intervals.ratio([1.5, 1.5, 1.3], [1, 1, 1])
    assert (one.n, one.low, one.p_different) == (3, None, None)
    assert intervals.verdicts([one, None]) == ["few", "few"]


def test_a_cell_to_itself():
    one = intervals.ratio([1] * 8, [1] * 8)
    assert (one.value, one.low, one.high, one.p_different, one.p_same) == (1, 1, 1, 1, 0)


def test_holm():
    assert intervals.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert intervals.holm([0.5, 0.6]) == [1, 1]


def test_many_comparisons_of_nothing_flag_one_in_twenty_tables():
    """Ten comparisons a table, none of them a difference."""
    draw = np.random.default_rng(5)
    flagged = 0
    for _ in range(400):
        table = [intervals.ratio(np.exp(draw.normal(0, 0.15, 8)), [1] * 8) for _ in range(10)]
        flagged += bool({"above", "below"} & set(intervals.verdicts(table)))
    assert flagged / 400 <= 0.075


def test_the_same_is_proven_and_not_assumed():
    draw = np.random.default_rng(6)
    few = intervals.ratio(np.exp(draw.normal(0, 0.15, 6)), [1] * 6)
    many = intervals.ratio(np.exp(draw.normal(0, 0.05, 60)), [1] * 60)
    assert intervals.verdicts([few]) == ["unknown"]
    assert intervals.verdicts([many]) == ["same"]


def test_the_same_is_seldom_said_of_the_margin():
    """A true ratio at the margin is called the same in one table of twenty at most."""
    draw = np.random.default_rng(7)
    said = sum(intervals.verdicts([intervals.ratio(
        intervals.MARGIN * np.exp(draw.normal(0, 0.06, 40)), [1] * 40)]) == ["same"]
        for _ in range(RUNS))
    assert said / RUNS <= 0.065
