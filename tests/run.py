#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs all tests; the last line is "N passed, N failed".

First those that need no lab, two files at a time, while the lab's image is made; then those in the
lab one by one, since they share it and most of them are sensitive to what runs beside them.
Arguments are options of pytest for both.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "playbooks/roles/lab/files/lab.sh"
# These look at all processes of this machine, so no others may use the library meanwhile.
ALONE = "tests/pure/test_fsocketctl_alone.py"
APART = ["-n2", "--dist=loadfile", "tests/pure", "tests/hosts", "tests/packages",
         f"--ignore={ALONE}"]
TOGETHER = [ALONE, "tests/guest", "tests/suite", "tests/servers"]
# What tests in several files build: two makes in one folder at the same time would fail.
BUILT = {"library": ["all"], "demo": ["all", "asan"], "counting": ["read"]}
# pytest's exit status if the options leave no test.
NONE = 5


def tests(arguments):
    """Returns pytest's exit status, and how many tests passed and failed (conftest.py)."""
    with tempfile.NamedTemporaryFile("r") as counts:
        status = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", *arguments], cwd=ROOT,
                                env={**os.environ, "TEST_COUNTS": counts.name}).returncode
        return status, [int(word) for word in counts.read().split()] or [0, 1]


def main():
    for folder, targets in BUILT.items():
        subprocess.run(["make", "-s", "-C", ROOT / folder, *targets], check=True)
    options = sys.argv[1:]
    # Without root, the tests that need the lab say so.
    with subprocess.Popen([LAB, "image"] if os.geteuid() == 0 else ["true"]):
        done = [tests(APART + options)]
    done.append(tests(TOGETHER + options))
    counts = [sum(column) for column in zip(*(numbers for _, numbers in done))]
    print(f"{counts[0]} passed, {counts[1]} failed", flush=True)
    return int(counts[1] > 0 or any(status not in (0, NONE) for status, _ in done))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"run.py: {' '.join(map(str, error.cmd))} failed: its output is above")
    except KeyboardInterrupt:
        sys.exit(130)
