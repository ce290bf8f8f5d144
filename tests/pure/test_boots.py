# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots a run spreads its repetitions."""
import boots


def test_rounds_are_spread_evenly():
    plan = {"rounds": 12, "boots": 3}
    planned = [boots.boot_of(plan, str(number)) for number in range(1, 13)]
    assert planned == [1] * 4 + [2] * 4 + [3] * 4


def test_no_boot_without_a_round():
    plan = {"rounds": 2, "boots": 5}
    assert [boots.boot_of(plan, "1"), boots.boot_of(plan, "2")] == [1, 2]


def test_one_boot_unless_asked_for():
    assert {boots.boot_of({"rounds": 9}, str(number)) for number in range(1, 10)} == {1}


def test_counts_come_first_and_profiles_last():
    plan = {"rounds": 12, "boots": 3}
    assert boots.boot_of(plan, "c1") == 1
    assert boots.boot_of(plan, "p1") == boots.boot_of(plan, "l2") == 3
