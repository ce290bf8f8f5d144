# SPDX-License-Identifier: GPL-2.0-only
"""Descriptors, calls and processes of a program: as the kernel has them, with the library alone,
and with the kernel backend."""
import pytest

import programs

PROGRAMS = ("test_kernel_descriptors", "test_kernel_calls", "test_kernel_pointers",
            "test_kernel_tables", "test_kernel_starts", "test_kernel_inherited",
            "test_kernel_stops", "test_kernel_threads", "test_kernel_cancel")
each = pytest.mark.parametrize("program, name", programs.each_of(*PROGRAMS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("descriptors")
    programs.build(path, PROGRAMS)
    return path


@each
def test_plain(folder, program, name):
    """What the tests demand is what the kernel does by itself."""
    programs.run(folder, program, name)


@each
def test_without_module_and_kernel_backend(folder, program, name):
    programs.run(folder, program, name, LD_PRELOAD=str(programs.LIBRARY))


@each
def test_with_the_kernel_backend(folder, program, name):
    # A program that requires a group of its own ends if it cannot have one.
    required = "0" if name in ("test_few_descriptors", "test_environment_changes") else "1"
    programs.run(folder, program, name, LD_PRELOAD=str(programs.LIBRARY), FSOCKET_BACKEND="kernel",
                 FSOCKET_REQUIRED=required)
