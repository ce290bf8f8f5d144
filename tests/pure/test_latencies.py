# SPDX-License-Identifier: GPL-2.0-only
"""Latency over all repetitions of a cell."""
import pytest

import contract
import latencies
import raws
import report
import tables
from made import fill, planned, summary_of
from study import Study
from test_sweep import TINY


@pytest.mark.parametrize("counts, percent, found", [
    ([(1, 990), (5, 10)], 50, 1), ([(1, 990), (5, 10)], 99, 1), ([(1, 989), (5, 11)], 99, 5),
    # Nine of 900 are slower: that is no percentile.
    ([(1, 890), (5, 10)], 99, None), ([(1, 9990), (7, 10)], 99.9, 1),
    ([(1, 9980), (7, 19)], 99.9, None),
    ([(1, 99990), (8, 10)], 99.99, 1), ([(3, 1)], 50, None), ([(3, 20)], 50, 3)])
def test_percentiles_of_counts(counts, percent, found):
    assert latencies.percentile(counts, percent) == found


def test_repetitions_are_added(tmp_path):
    """Each of three has 4,000 requests, too few for p99.9; an invalid one does not count."""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    fill(run, {"shared": [100, 100, 100], "fastsocket": [100, 100, 100]})
    for number, slow in ((1, 9), (2, 1), (3, 0), ("3-invalid-7", 4000)):
        raw = run / "raw" / "shared" / str(number)
        raw.mkdir(parents=True)
        (raw / "latencies.csv").write_text(
            f"time,ms,requests\nconnect,1,4000\ntotal,2,{4000 - slow}\ntotal,90.5,{slow}\n")
    summary_of(run)
    study = Study(run)
    table = latencies.table(study, raws.Raw(run), tables.load_name)
    # Ten of 12,000 are slow, and p99.9 leaves twelve.
    assert table["rows"] == [["ab -c 100, 8 workers", "without: shared listener", "12,000",
                              "2", "2", "2", "2", latencies.DASH, "90.5"]]
    shown, = (one for one in report.sections(study) if one["heading"] == "Latency")
    assert shown["tables"] == [table]


def test_tools_that_list_nothing(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0")
    fill(run, {"shared": [100, 100, 100], "fastsocket": [100, 100, 100]})
    summary_of(run)
    assert latencies.table(Study(run), raws.Raw(run), tables.load_name) is None
    assert not [one for one in report.sections(Study(run)) if one["heading"] == "Latency"
                and None in one["tables"]]
    assert contract.read_samples(run)
