# SPDX-License-Identifier: GPL-2.0-only
"""Over which boots a run spreads its repetitions."""
import pytest

import boots
import conditions
import contract
from hosts import RunError
from made import planned_of, program, sample, summary_of


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


def words(plan, steps, apart=False):
    return [boot.word() for boot in boots.planned(plan, steps, apart)]


def test_a_lab_with_kvm_counts_in_a_boot_of_its_own(tmp_path):
    """It comes first, has nothing else, and is none of those that timed rounds are spread over."""
    counted = [{"counts": True}]
    run = planned_of(tmp_path, "null", "--set", "boots=2", "--set", "count_repetitions=1")
    plan, steps = contract.read_run(run)["plan"], contract.read_plan(run)
    first = next(step for step in steps if step["repetition"] == "1")
    assert steps[0]["repetition"] == "c1" and steps[-1]["repetition"].isdigit()
    assert words(plan, steps) == ["8", "8"] and words(plan, steps, True) == ["8::tcg", "8", "8"]
    assert words(plan, steps[-2:], True) == ["8", "8"]
    assert words(plan, steps[:1], True) == ["8::tcg"]
    assert not boots.another(plan, steps[0], counted)
    assert boots.another(plan, first, counted)
    assert boots.another(plan, steps[0], [{"counts": False}])
    # Where KVM turns out not to boot the kernel, the boot after that may count, too.
    for boot in ({"counts": False}, {}):
        timed = [*counted, boot]
        assert not boots.another(plan, first, timed)
        assert boots.another(plan, steps[-1], timed)
        assert not boots.another(plan, steps[-1], [*timed, boot])
    done = program("experiments/plan.py", "null", "--check", "--apart", "--set", "boots=2",
                   "--set", "count_repetitions=1")
    assert done.stdout.splitlines()[-1] == "8::tcg 8 8"
    assert "The server is booted 3 times" in done.stdout


def test_each_number_of_cores_and_each_kernel_is_counted_apart(tmp_path):
    run = planned_of(tmp_path, "seed-demo", *TWO)
    plan, steps = contract.read_run(run)["plan"], contract.read_plan(run)
    assert words(plan, steps, True) == ["8:6.12:tcg", "8:6.12", "8:6.1:tcg", "8:6.1"]
    emulated = [{"kernel": "6.12.9-amd64", "counts": True}]
    assert not boots.another(plan, steps[0], emulated)
    assert boots.another(plan, steps[7], emulated)
    run = planned_of(tmp_path, "cores", "--set", "workers=2,4", "--set", "setup=shared")
    assert words(contract.read_run(run)["plan"], contract.read_plan(run), True) == [
        "2::tcg", "4::tcg"]


def test_a_number_of_cores_is_a_boot(tmp_path):
    """Resumed, only those are booted that something is left of."""
    run = planned_of(tmp_path, "cores", "--set", "workers=4,1,2", "--set", "setup=shared")
    steps = contract.read_plan(run)
    assert [step["workers"] for step in steps] == ["1", "1", "2", "2", "4", "4"]
    plan = contract.read_run(run)["plan"]
    assert words(plan, steps) == ["1", "2", "4"] and words(plan, steps[3:]) == ["2", "4"]
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


KERNELS = ["kernel=6.12,6.1", "setup=shared,fastsocket", "tool=ab", "concurrency=100", "rounds=2",
           "perf_repetitions=0", "count_repetitions=1"]
TWO = [word for setting in KERNELS for word in ("--set", setting)]


def test_a_kernel_is_a_boot(tmp_path):
    """In each boot, setups are compared with each other, and pairs are printed for each."""
    run = planned_of(tmp_path, "seed-demo", *TWO)
    plan, steps = contract.read_run(run)["plan"], contract.read_plan(run)
    assert [boots.kernel_of(plan, step) for step in steps] == ["6.12"] * 8 + ["6.1"] * 6
    assert words(plan, steps) == ["8:6.12", "8:6.1"] and words(plan, steps[8:]) == ["8:6.1"]
    assert words({"setups": {}, "server_cores": 4}, []) == ["4"]
    assert not boots.another(plan, steps[7], [{"kernel": "6.12.9-amd64"}])
    assert boots.another(plan, steps[8], [{"kernel": "6.12.9-amd64"}])
    assert boots.another(plan, steps[0], [{"kernel": "6.1.0-9-amd64"}])
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": str(first), "first_order": first, "kernel": kernel}
                      for first, kernel in ((1, "6.12.9-amd64"), (9, "6.1.0-9-amd64"))]
    contract.write_run(run, facts)
    for order, step in enumerate(steps, 1):
        more = {"line_transfers_per_req": 100} if step["repetition"] == "c1" else {"time_s": 1}
        sample(run, step, order, None if step["repetition"] == "c1" else 100 + (
            50 if "fastsocket" in step["setup"] else 0), **more)
    printed, rows = summary_of(run)
    for kernel in ("6.12", "6.1"):
        assert rows[f"fastsocket+kernel={kernel}"]["throughput_rps_ratio"] == "1.5"
        assert f"| requests per second, without: shared listener, kernel {kernel}, ab -c 100" in (
            printed) or f"| time for 5,000 requests, without: shared listener, kernel {kernel}" in (
                printed)
    assert "of ratios within 1 boot of the server" in printed


def test_the_server_has_the_kernel_of_the_boot(tmp_path):
    run = planned_of(tmp_path, "seed-demo", *TWO)
    plan, steps = contract.read_run(run)["plan"], contract.read_plan(run)
    server = {"kernel": "6.12.9-amd64", "mitigations": "x", "cores": "8", "module_sha256": "a"}
    assert conditions.check_kernel(plan, server, steps) == {
        "kernel": "6.12.9-amd64", "mitigations": "x", "module_sha256": "a"}
    assert server == {"kernel": "6.12, 6.1", "cores": "8"}
    with pytest.raises(RunError, match="runs kernel 6.1.0-9-amd64, .* needs 6.12: boot it"):
        conditions.check_kernel(plan, {"kernel": "6.1.0-9-amd64"}, steps)
    assert conditions.check_kernel({"setups": {"shared": {}}}, {"kernel": "6.1"}, steps) == {}


@pytest.mark.parametrize("settings, sentence", [
    (["kernel=6"], "kernel: level 6: give versions as 6.1"),
    (["kernel=6.1", "rounds=auto"], "kernel: each is a boot"),
    (["kernel=6.1", "boots=2"], "kernel: each is a boot"),
    (["kernel=6.1", "server_cores=workers"], "kernel: each is a boot")])
def test_bad_kernels(tmp_path, settings, sentence):
    done = program("experiments/plan.py", "seed-demo", "--results", tmp_path, *(
        word for setting in settings for word in ("--set", setting)))
    assert done.returncode == 1 and done.stderr.startswith(f"plan: {sentence}"), done.stderr


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
