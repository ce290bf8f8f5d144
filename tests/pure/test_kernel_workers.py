# SPDX-License-Identifier: GPL-2.0-only
"""The kernel backend needs no module, so these test programs of the guest run here, too."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests/guest/test_kernel_workers.c"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    subprocess.run(["make", "-s", "-C", ROOT / "library", "libfsocket.so"], check=True)
    path = tmp_path_factory.mktemp("workers") / "program"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", path, SOURCE, "-lcmocka"],
                   check=True)
    return path


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a group needs two CPUs")
@pytest.mark.parametrize("name", re.findall(r"T\((test_\w+)\)", SOURCE.read_text()))
def test_workers(program, name):
    done = subprocess.run([program, name], capture_output=True, text=True, timeout=100, check=False,
                          env={**os.environ, "LD_PRELOAD": str(ROOT / "library/libfsocket.so"),
                               "FSOCKET_BACKEND": "kernel", "FSOCKET_REQUIRED": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
