# SPDX-License-Identifier: GPL-2.0-only
"""The kernel backend needs no module, so these test programs of the guest run here, too."""
import os

import pytest

import programs

PROGRAMS = ("test_kernel_workers", "test_kernel_others", "test_kernel_unseen",
            "test_kernel_places")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("workers")
    programs.build(path, PROGRAMS)
    return path


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a group needs two CPUs")
@pytest.mark.parametrize("program, name", programs.each_of(*PROGRAMS))
def test_workers(folder, program, name):
    programs.run(folder, program, name, LD_PRELOAD=str(programs.LIBRARY), FSOCKET_BACKEND="kernel",
                 FSOCKET_REQUIRED="1")
