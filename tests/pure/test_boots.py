# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots a run spreads its repetitions."""
import pytest

import boots
import conditions
import contract
from hosts import RunError
from made import planned_of, program, sample


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


def test_a_number_of_cores_is_a_boot(tmp_path):
    """Resumed, only those are booted that something is left of."""
    run = planned_of(tmp_path, "cores", "--set", "workers=4,1,2", "--set", "setup=shared")
    steps = contract.read_plan(run)
    assert [step["workers"] for step in steps] == ["1", "1", "2", "2", "4", "4"]
    plan = contract.read_run(run)["plan"]
    assert boots.cores(plan, steps) == [1, 2, 4] and boots.cores(plan, steps[3:]) == [2, 4]
    assert not boots.another(plan, steps[0], [])
    assert not boots.another(plan, steps[1], [{"cores": 1}])
    assert boots.another(plan, steps[2], [{"cores": 1}])
    for order, step in enumerate(steps[:2], 1):
        sample(run, step, order, None)
    done = program("experiments/plan.py", "cores", "--results", tmp_path, "--set",
                   "workers=4,1,2", "--set", "setup=shared", "--check")
    assert done.stdout.splitlines()[-1] == "2 4"
    assert f" are left of the run {run.name}. The server is booted 2 times, with 2, 4 cores." in (
        done.stdout)
    done = program("experiments/plan.py", "null", "--check", "--set", "boots=3")
    assert done.stdout.splitlines()[-1] == "8 8 8"


def test_the_server_has_the_cores_of_the_boot():
    plan = {"server_cores": "workers", "factors": {"workers": [1, 2, 4]}}
    facts = {"cores": "2", "memory_mb": "2900", "numa": "node0: 0-1"}
    assert conditions.check_cores(plan, facts, [{"workers": "2"}]) == {
        "cores": 2, "memory_mb": "2900", "numa": "node0: 0-1"}
    assert facts == {"cores": "1 to 4"}
    with pytest.raises(RunError, match="has 2 cores, and what is measured next needs 4"):
        conditions.check_cores(plan, {"cores": "2"}, [{"workers": "4"}])
    plan["server_cores"] = 8
    assert conditions.check_cores(plan, {"cores": "9"}, []) == {}
    with pytest.raises(RunError, match="has 2 cores, and the experiment needs 8"):
        conditions.check_cores(plan, {"cores": "2"}, [])
