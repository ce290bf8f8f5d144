# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl doctor on made-up hosts: workers far from the NIC, or on threads of the same core."""
import pytest

from test_delivery import built, made_host, queues  # noqa: F401 fixtures

NODES = [range(0, 4), range(4, 8)]
# As Intel's firmware numbers the threads of four cores, and as AMD's does.
APART = [(0, 4), (1, 5), (2, 6), (3, 7)]
NEXT = [(0, 1), (2, 3), (4, 5), (6, 7)]


def told(doctor, workers, **more):
    """Findings and remedies; each core handles the packets of its queue."""
    lines = doctor(workers, queues(8), **more)
    return [line for line in lines if "belongs to NUMA" in line or "share a core" in line
            or line.startswith(("AllowedCPUs", "run the server's workers"))]


@pytest.mark.parametrize("workers, near, text", [
    ("0-3", 0, None), ("4-7", 1, None), ("0-7", -1, None), ("0-7", None, None),
    ("0-4", 0, "eth9 belongs to NUMA node 0, and workers are on 1 core of another, core 4 for one"),
    ("0-3", 1, "eth9 belongs to NUMA node 1, and workers are on 4 cores of another, core 3 for "
               "one")])
def test_node(doctor, workers, near, text):
    for virtio in (False, True):
        found = told(doctor, workers, nodes=NODES, near=near, virtio=virtio)
        assert found[:1] == ([text] if text else [])


@pytest.mark.parametrize("workers, threads, text", [
    # A thread of each core; one core is enough, or all of them are used; no core has two threads.
    ("0-3", APART, None), ("0,2,4,6", NEXT, None), ("0-7", NEXT, None), ("0-3,5", APART, None),
    ("0-3", [(cpu,) for cpu in range(8)], None), ("0-3", (), None), ("", NEXT, None),
    ("0-3", NEXT, "several workers share a core, by its threads, on 2 cores, that of CPU 2 for "
                  "one, while 2 cores have no worker"),
    ("0,2-4", NEXT, "several workers share a core, by its threads, on 1 core, that of CPU 2 for "
                    "one, while 1 core has no worker")])
def test_siblings(doctor, workers, threads, text):
    found = told(doctor, workers, threads=threads)
    first = "0,1,2,3" if threads == APART else "0,2,4,6"
    assert found == ([text, f"AllowedCPUs={first} in the server's unit, and the interrupts of as "
                            "many receive queues on these CPUs"] if text else [])


def test_the_remedy_ends_the_finding(doctor):
    assert told(doctor, "0-3", threads=NEXT) and not told(doctor, "0,2,4,6", threads=NEXT)


def test_threads_that_are_offline_are_none(doctor):
    assert not told(doctor, "0-3", threads=NEXT, online="0,2,4,6")
