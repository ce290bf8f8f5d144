# SPDX-License-Identifier: GPL-2.0-only
"""Tables and figures of runs that are made up."""
import itertools

import pytest

import contract
import summarise
from made import TINY, fill, planned, planned_of, program, sample, summary_of


def test_summary(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=2")
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    # An invalid repetition, however good, is counted and not averaged in.
    sample(run, contract.read_plan(run)[0], 99, 10 ** 6, valid=0)
    output, rows = summary_of(run)
    ours, base = rows["fastsocket"], rows["shared"]
    assert float(ours["throughput_rps"]) == 260 and float(base["throughput_rps"]) == 200
    # Three have no interval.
    assert ours["throughput_rps_lo"] == ours["throughput_rps_ratio_hi"] == ""
    # Pairs of rounds: 1.5, 1.3, 1.5
    assert float(ours["throughput_rps_ratio"]) == pytest.approx((1.5 * 1.3 * 1.5) ** (1 / 3),
                                                                abs=1e-5)
    assert float(base["throughput_rps_ratio"]) == 1
    assert float(ours["spin_pct"]) == 1 and float(base["spin_pct"]) == 20
    assert ours["connect_p99_ms"] == ""
    assert int(ours["n_invalid"]) + int(base["n_invalid"]) == 1
    # Repetitions under perf are not timed.
    assert (ours["n_valid"], ours["n_profiles"]) == ("3", "2")
    assert "| 1.43 times as fast | fewer than 6 rounds | 3 |" in output and "4.736 s" in output
    assert set(path.name for path in (run / "tables").iterdir()) == {
        "with-without.md", "against.md", "setups.md", "spinning.md", "left-out.md"}
    assert (tmp_path / "latest").resolve() == run.resolve()
    # The same samples give the same bytes.
    first = (run / "summary.csv").read_bytes()
    summary_of(run)
    assert (run / "summary.csv").read_bytes() == first


@pytest.mark.parametrize("settings, valid, nothing", [
    (["count_repetitions=1"], "", True), (["count_repetitions=1"], "p1", True),
    # Counts do not depend on how busy the machine is, and one time is one.
    (["count_repetitions=1"], "c1", False), (["count_repetitions=1"], "2", False),
    (["rounds=0", "count_repetitions=1"], "", True),
    (["rounds=0", "count_repetitions=1"], "c1", False),
    # Profiles are all that is wanted.
    (["rounds=0"], "", False)])
def test_a_run_without_any_count_or_time_says_so(tmp_path, settings, valid, nothing):
    """The playbook fails with this sentence, after all that can be made was made."""
    run = planned(tmp_path, *TINY, "--set", "attempts=1", "--set", "perf_repetitions=1",
                  *(word for setting in settings for word in ("--set", setting)))
    contract.write_run(run, {**contract.read_run(run),
                             "boots": [{"boot_id": "1", "first_order": 1}]})
    for order, step in enumerate(contract.read_plan(run), 1):
        sample(run, step, order, None, valid=int(step["repetition"] == valid),
               invalid_reason="the machine was busy")
    output, _ = summary_of(run)
    assert "repetitions could not be had, most often because the machine was busy: " in output
    assert (f"\n{summarise.NOTHING}: " in output) == nothing
    for name in ("plots/plot.py", "experiments/report.py"):
        done = program(name, run)
        assert done.returncode == 0, done.stderr
    assert (summarise.NOTHING in (run / "report.html").read_text()) == nothing


def test_repetitions_of_different_boots_are_not_compared(tmp_path):
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=0", "--seed", 3)
    # The second boot begins in the middle of round 2.
    fill(run, {"shared": [100, 100, 100], "fastsocket": [150, 900, 150]}, boots=(1, 4))
    _, rows = summary_of(run)
    assert float(rows["fastsocket"]["throughput_rps_ratio"]) == 1.5


def test_a_setup_may_have_a_baseline_of_its_own(tmp_path):
    run = planned_of(tmp_path, "proxy", "--set", "rounds=2", "--set", "null=0",
                     "--set", "count_repetitions=0")
    rates = {name: [100, 100] for name in contract.read_run(run)["plan"]["setups"]}
    rates.update({"demo-rfs": [125, 125], "demo-rfd": [150, 150], "haproxy": [50, 50]})
    fill(run, rates)
    output, rows = summary_of(run)
    assert float(rows["haproxy"]["throughput_rps_ratio"]) == 1
    assert float(rows["haproxy-rfd"]["throughput_rps_ratio"]) == 2
    assert float(rows["demo-rfd"]["throughput_rps_ratio"]) == 1.5
    assert "1.50 of demo |" in output
    assert "| demo-rfd | demo-rfs | 1.20 |" in output
    assert "| demo-rfd | demo-fastsocket | 1.50 |" in output


def test_ideas(tmp_path):
    run = planned(tmp_path, *TINY)
    facts = contract.read_run(run)
    facts["plan"]["setups"]["shared"]["idea"] = "local listen table"
    facts["plan"]["setups"]["fastsocket"].update(idea="local listen table", successor="SO_X")
    contract.write_run(run, facts)
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    summary_of(run)
    row = (run / "tables/ideas.md").read_text().splitlines()[2]
    assert row.startswith("| local listen table | SO_X | 1.43 of without: shared listener | "
                          "fewer than 6 rounds | 3 |")
    assert row.endswith("| 1.00 |")


def test_speed_up_and_curves(tmp_path):
    run = planned_of(tmp_path, "workers", "--set", "rounds=2", "--set", "workers=1,2,4",
                     "--set", "setup=demo,nginx")
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": "1", "first_order": 1}]
    contract.write_run(run, facts)
    for order, step in enumerate(contract.read_plan(run), 1):
        sample(run, step, order, 100 * int(step["workers"]), latency_p50_ms=5, latency_p90_ms=6,
               latency_p99_ms=7)
    summary_of(run)
    assert "| ab -c 100 | demo, without | 100, ×1.00 | 200, ×2.00 | 400, ×4.00 | 2 |" in (
        run / "tables/workers.md").read_text()
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    assert (run / "figures/workers.png").stat().st_size > 5000


def test_tables_by_place(tmp_path):
    """Sums over repetitions, per 1,000 requests; many places in one row."""
    run = planned(tmp_path, *TINY, "--set", "perf_repetitions=2")
    fill(run, {"shared": [1, 1, 1], "fastsocket": [1, 1, 1]})
    text = (run / "samples.csv").read_text().splitlines(keepends=True)
    column = text[0].split(",").index("requests")
    rows = [line.split(",") for line in text[1:]]
    for row in rows:
        row[column] = "500"
    (run / "samples.csv").write_text(text[0] + "".join(",".join(row) for row in rows))
    for number in (1, 2):
        raw = run / "raw" / "shared" / f"p{number}"
        raw.mkdir(parents=True)
        (raw / "locks.csv").write_text(
            "kind,function,caller,contended,wait_us\n" + "".join(
                f"spin,f{place:02},g,{20 - place},100.0\n" for place in range(12)))
        (raw / "spinning.csv").write_text(f"function,caller,busy_pct\nf,g,{number}\n")
    summary_of(run)
    lines = (run / "tables/locks.md").read_text().splitlines()
    assert lines[2] == "| shared | spin | `f00` | `g` | 40.00 | 200.00 | 2 |"
    assert lines[12] == "| shared | 2 more places |  |  | 38.00 | 400.00 | 2 |"
    assert (run / "tables/spinning-places.md").read_text().splitlines()[2:3] == [
        "| shared | `f` | `g` | 1.50 | 2 |"]


def test_figures_of_many_setups(tmp_path):
    run = planned_of(tmp_path, "proxy", "--set", "rounds=6", "--set", "count_repetitions=0")
    fill(run, {name: [100, 100, 110, 90, 105, 95]
               for name in contract.read_run(run)["plan"]["setups"]})
    # One that has not been measured yet.
    path = run / "samples.csv"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True)
                            if ",haproxy-rfs," not in line))
    summary_of(run)
    done = program("plots/plot.py", run)
    assert done.returncode == 0 and not done.stderr, done.stderr
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in ("forest", "throughput", "latency")
                       for kind in ("png", "svg")}


def test_figures(tmp_path):
    run = planned(tmp_path, *TINY)
    fill(run, {"shared": [100, 200, 400], "fastsocket": [150, 260, 600]})
    for setup, repetition in itertools.product(("shared", "fastsocket"), "123"):
        raw = run / "raw" / setup / repetition
        raw.mkdir(parents=True)
        (raw / "latencies.csv").write_text("time,ms,requests\nconnect,1,100\n" + "".join(
            f"total,{n},{200 - n}\n" for n in range(100)))
    summary_of(run)
    done = program("plots/plot.py", run)
    assert done.returncode == 0, done.stderr
    figures = {path.name for path in (run / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for kind in ("png", "svg")
                       for name in ("forest", "throughput", "latency", "ab-latency-100", "tail")}
    for path in (run / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000
