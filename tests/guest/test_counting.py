# SPDX-License-Identifier: GPL-2.0-only
"""The counting of cache-line transfers (counting/) against programs with known answers."""
import subprocess
from collections import Counter

import pytest

from conftest import KERNELS, LAB, ROOT, SOURCES

# The transfers of a program do not depend on the kernel.
pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
# The quantum in instructions. The machine decides how often the emulator's threads alternate. With
# 1 the emulator yields after each block of instructions, and where that takes the machine some
# microseconds, a guest with eight busy CPUs cannot keep up with its own timer interrupts.
QUANTUM = 10


def count(*words):
    subprocess.run([LAB, "count", *map(str, words)], check=True, timeout=120)


def moved(lab, kind, threads, rounds):
    """Transfers of the program's most-moved line, for each round of a thread."""
    dump = ROOT / ".lab/bouncing.dump"
    count("on", QUANTUM, "user")
    try:
        lab.server(f"timeout 60 {SOURCES}/tests/guest/bouncing {kind} {threads} {rounds}")
    finally:
        count("off")
    count("dump", dump)
    lines = Counter()
    for words in map(str.split, dump.read_text().splitlines()):
        # Count by a program's instructions: their addresses are below those of the kernel.
        if words[0] == "event" and len(words[2]) < 16:
            lines[words[3]] += int(words[4]) + int(words[5])
    return max(lines.values()) / (threads * rounds)


def test_ring(lab):
    """A line that is handed round moves twice each time: for the read, and for the write."""
    assert moved(lab, "ring", 8, 200) == pytest.approx(2, rel=0.1)


def test_apart(lab):
    """Lines that only one thread uses do not move."""
    assert moved(lab, "padded", 2, 5000) < 0.005


@pytest.mark.parametrize("kind", ["shared", "false", "ticket"])
def test_fought_for(lab, kind):
    """One line, which holds one counter, two neighbours or a lock, moves at most once each way."""
    # Use so many threads that others contend whenever the machine lets one run.
    assert 0.5 < moved(lab, kind, 8, 2500) < 2.2
