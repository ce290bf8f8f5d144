# SPDX-License-Identifier: GPL-2.0-only
"""Medians, ratios and verdicts, with intervals that keep what they promise.

tests/pure/test_intervals.py simulates how often the intervals contain the truth. Three
decisions are made here, once, for all tables and figures:

- The median of a cell has an interval of order statistics, which assumes no distribution.
- A ratio is the geometric mean of ratios within rounds, and has a t interval of their
  logarithms. With BOOTS or more boots of the server each boot's mean is one value, since
  a boot shifts all its rounds together: the interval then speaks of other boots too. With
  fewer it speaks of the boots that were measured only, and tables say so.
- Below SMALLEST repetitions nothing has an interval.

A "difference" is a t test that survives Holm's correction for all comparisons of a table.
"The same" is two one-sided tests against a margin of MARGIN. All else is "not told apart".
"""
import math
from typing import NamedTuple

import numpy as np
from scipy import special

CONFIDENCE = 0.95
SMALLEST = 6
# The number of boots from which the variation between boots can be estimated.
BOOTS = 4
# Ratios from 1 / MARGIN to MARGIN are called the same.
MARGIN = 1.05


class Ratio(NamedTuple):
    """A ratio of a cell to another; all but value and n are None below SMALLEST."""
    n: int                  # rounds that have both
    boots: int              # of the server, in which these rounds were
    value: float            # geometric mean, no unit
    low: float | None       # its 95 % interval
    high: float | None
    p_different: float | None   # two-sided, of a ratio of 1
    p_same: float | None        # of a ratio outside the margin


def median(values):
    """(median, low, high) of n numbers; low and high are None below SMALLEST.

    The interval is that of the k-th smallest to the k-th largest, with the greatest k
    that contains the true median in at least 95 % of all samples.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n < SMALLEST:
        return float(np.median(ordered)), None, None
    k = 1
    while 2 * special.bdtr(k, n, 0.5) <= 1 - CONFIDENCE:
        k += 1
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[n - k])


def _units(logs, boots):
    """The observations: rounds, or with enough boots the means of boots."""
    names = sorted(set(boots))
    if len(names) < BOOTS:
        return logs
    return np.array([logs[boots == name].mean() for name in names])


def ratio(ratios, boots):
    """Ratio from the ratios of n rounds (n > 0, all above 0), and the boot of each."""
    logs = np.log(np.asarray(ratios, dtype=float))
    units = _units(logs, np.asarray(boots))
    mean = units.mean()
    value, number = math.exp(mean), len(set(boots))
    if len(logs) < SMALLEST:
        return Ratio(len(logs), number, value, None, None, None, None)
    error = units.std(ddof=1) / math.sqrt(len(units))
    if error < 1e-12:       # all the same, as of a cell to itself
        return Ratio(len(logs), number, value, value, value, float(abs(mean) < 1e-12),
                     float(abs(mean) >= math.log(MARGIN)))
    return _judged(len(logs), number, mean, error, len(units) - 1)


def _judged(n, boots, mean, error, freedom):
    """A Ratio from a mean of logarithms, its standard error, and the degrees of freedom."""
    half = special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * error
    p_different = 2 * special.stdtr(freedom, -abs(mean) / error)
    p_same = special.stdtr(freedom, (abs(mean) - math.log(MARGIN)) / error)
    return Ratio(n, boots, math.exp(mean), math.exp(mean - half), math.exp(mean + half),
                 float(p_different), float(p_same))


def between(logs, boots, other_logs, other_boots):
    """Ratio of two samples that share no rounds, as of two runs: exp(mean - other mean).

    n and boots are those of the smaller sample. Welch's t interval, over boots where both
    have enough of them.
    """
    enough = all(len(set(one)) >= BOOTS for one in (boots, other_boots))
    units = [_units(np.asarray(values, dtype=float), np.asarray(labels)) if enough
             else np.asarray(values, dtype=float)
             for values, labels in ((logs, boots), (other_logs, other_boots))]
    mean = units[0].mean() - units[1].mean()
    n, number = (min(map(len, pair)) for pair in ((logs, other_logs),
                                                  (set(boots), set(other_boots))))
    if n < SMALLEST:
        return Ratio(n, number, math.exp(mean), None, None, None, None)
    parts = [one.var(ddof=1) / len(one) for one in units]
    error = math.sqrt(sum(parts))
    if error < 1e-12:
        return Ratio(n, number, math.exp(mean), math.exp(mean), math.exp(mean),
                     float(abs(mean) < 1e-12), float(abs(mean) >= math.log(MARGIN)))
    freedom = sum(parts) ** 2 / sum(part ** 2 / (len(one) - 1)
                                    for part, one in zip(parts, units))
    return _judged(n, number, mean, error, freedom)


def holm(probabilities):
    """Corrects p values for their number; None stays None and does not count."""
    given = sorted((p, i) for i, p in enumerate(probabilities) if p is not None)
    corrected = [None] * len(probabilities)
    worst = 0.0
    for rank, (p, i) in enumerate(given):
        worst = max(worst, min(1.0, (len(given) - rank) * p))
        corrected[i] = worst
    return corrected


def verdicts(ratios):
    """For each Ratio (or None) of a table one of: "above", "below", "same", "unknown", "few"."""
    different = holm([one.p_different if one else None for one in ratios])
    same = holm([one.p_same if one else None for one in ratios])
    words = []
    for one, apart, alike in zip(ratios, different, same):
        if one is None or apart is None:
            words.append("few")
        elif alike <= 1 - CONFIDENCE:
            words.append("same")
        elif apart <= 1 - CONFIDENCE:
            words.append("above" if one.value > 1 else "below")
        else:
            words.append("unknown")
    return words


def width(one):
    """The distance from a Ratio's value to the farther end of its interval, %; None without one."""
    return None if one.low is None else 100 * (one.high / one.value - 1)
