# SPDX-License-Identifier: GPL-2.0-only
"""The counters of a processor, as real hosts count: the lab's has none, but the same perf."""
import time

import pytest

import counts
from conftest import KERNELS
from hosts import Host

pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")


def test_perf_begins_and_ends(lab):
    """It ends when it is told, and prints a line for each event; twice, as nothing is left."""
    lab.server("mkdir -p /run/fsbench")
    counter = counts.Processor(Host("the server", lab.server_argv, "server.sh"))
    for _ in range(2):
        began = time.monotonic()
        counter.zero()
        with pytest.raises(counts.CountError, match="has no counters that perf stat could read"):
            counter.stop(100)
        assert time.monotonic() - began < 30
        text = lab.server("cat /run/fsbench/counts.data").stdout
        assert text.count("<not supported>") == 4 and "cycles" in text, text
        assert lab.server("pgrep -x perf", check=False).returncode == 1
    counter.abandon()
