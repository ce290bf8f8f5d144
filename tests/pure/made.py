# SPDX-License-Identifier: GPL-2.0-only
"""Makes runs without measuring, for tests of the programs that come after it."""
import subprocess
import sys
from pathlib import Path

import contract
import run as runner

ROOT = Path(__file__).resolve().parents[2]
# A small plan of the experiment seed-demo.
TINY = ["--set", "setup=shared,fastsocket", "--set", "tool=ab", "--set", "concurrency=100",
        "--set", "rounds=3", "--set", "null=0", "--set", "count_repetitions=0"]
# experiments/servers/other.py, of a server that somebody adds.
OTHER_SERVER = """from . import base


class Other(base.Server):
    packages, service = ("other-server", "other-modules"), "other"


SERVERS = [Other("other")]
"""


def program(name, *args):
    return subprocess.run([sys.executable, ROOT / name, *map(str, args)], capture_output=True,
                          text=True, check=False)


def planned_of(results, name, *args):
    done = program("experiments/plan.py", name, "--results", results, *args)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def planned(results, *args):
    return planned_of(results, "seed-demo", *args)


def sample(run, step, order, rps, valid=1, **more):
    """Appends a row to samples.csv."""
    columns = contract.sample_columns(contract.read_run(run)["plan"]["factors"])
    path = run / "samples.csv"
    if not path.exists():
        path.write_text(",".join(columns) + "\n")
    row = {**step, "experiment": "seed-demo", "run": run.name, "order": order, "valid": valid,
           "throughput_rps": rps, **more}
    with open(path, "a", encoding="utf-8") as file:
        file.write(contract.csv_line(row, columns))


def fill(run, rates, boots=(1,)):
    """Finishes every repetition; rates[setup][round]."""
    facts = contract.read_run(run)
    facts["boots"] = [{"boot_id": str(first), "first_order": first} for first in boots]
    contract.write_run(run, facts)
    for order, step in enumerate(contract.read_plan(run), 1):
        if step["repetition"].startswith("p"):
            sample(run, step, order, None, spin_pct=20 if step["setup"] == "shared" else 1)
        else:
            sample(run, step, order, rates[step["setup"]][int(step["repetition"]) - 1],
                   time_s=1, latency_p50_ms=5, latency_p90_ms=6, latency_p99_ms=7)


def sweep_on(run, hosts, lab=True, **facts):
    """A sweep of run.py on hosts that do not exist, before its first repetition."""
    sweep = object.__new__(runner.Sweep)
    sweep.run, sweep.facts = run, contract.read_run(run)
    sweep.facts.update(server_settings={}, boots=[{"boot_id": "x", "first_order": 1}], **facts)
    sweep.plan = sweep.facts["plan"]
    sweep.columns = contract.sample_columns(sweep.plan["factors"])
    sweep.server = sweep.loadgen = hosts
    sweep.nic, sweep.address, sweep.backend = "lo", "192.0.2.1", {"address": "192.0.2.2:1"}
    sweep.parameters, sweep.lab, sweep.only_counts = {}, lab, False
    sweep.order = sweep.open_samples()
    return sweep


def summary_of(run):
    """(what summarise.py printed, {cell: row of summary.csv})."""
    done = program("experiments/summarise.py", run)
    assert done.returncode == 0, done.stderr
    rows = contract.read_csv(run / "summary.csv")
    return done.stdout, {row["cell"]: row for row in rows}
