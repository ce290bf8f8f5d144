# SPDX-License-Identifier: GPL-2.0-only
"""Random calls of nobody's, while root changes parameters, CPUs and the module."""
import os
import re
import time

import pytest

from conftest import REPORT, SOURCES

MODULE = "--module /lib/modules/$(uname -r)/updates/fastsocket.ko"
# Processes, threads, calls, seconds. One process alone does the same each time.
SHORT = [(1, 1, 20000, 5), (4, 2, 100000, 15)]
LONG = [(1, 1, 100000, 300), (6, 2, 1000000, 1500)]


@pytest.mark.parametrize("size", [0, 1], ids=["alone", "together"])
def test_fuzz(lab, size):
    """The kernel has nothing to complain of, everybody goes on, nothing is left behind."""
    processes, threads, calls, seconds = (LONG if lab.debug else SHORT)[size]
    # Always the same one, or make test would be another test each day.
    seed = os.environ.get("FUZZ_SEED") or (int(time.time()) if lab.debug else 1)
    lab.new_kernel_warnings()
    done = lab.server(f"{SOURCES}/tests/guest/fuzz/fuzz --root {MODULE} --seed {seed} "
                      f"--processes {processes} --threads {threads} "
                      f"--calls {calls} --seconds {seconds} 2>&1", check=False,
                      limit=seconds + 200)
    print(done.stdout)
    log = lab.server("dmesg").stdout
    reports = [line for line in lab.new_kernel_warnings() if re.search(REPORT, line)]
    assert done.returncode == 0 and not reports, (
        f"{done.stdout}{log[-20000:]}\nonce more: FUZZ_SEED={seed}; shorter: "
        "tests/debug/shorten.py")
