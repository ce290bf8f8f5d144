# SPDX-License-Identifier: GPL-2.0-only
"""The kernel backend needs no module, so these test programs of the guest run here, too."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("test_kernel_workers", "test_kernel_others", "test_kernel_unseen")


def source(program):
    return ROOT / f"tests/guest/{program}.c"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    subprocess.run(["make", "-s", "-C", ROOT / "library", "libfsocket.so"], check=True)
    path = tmp_path_factory.mktemp("workers")
    for program in PROGRAMS:
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", path / program,
                        source(program), "-lcmocka"], check=True)
    return path


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a group needs two CPUs")
@pytest.mark.parametrize("program, name", [
    (program, name) for program in PROGRAMS
    for name in re.findall(r"T\((test_\w+)\)", source(program).read_text())])
def test_workers(folder, program, name):
    done = subprocess.run([folder / program, name], capture_output=True, text=True, timeout=100,
                          check=False,
                          env={**os.environ, "LD_PRELOAD": str(ROOT / "library/libfsocket.so"),
                               "FSOCKET_BACKEND": "kernel", "FSOCKET_REQUIRED": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
