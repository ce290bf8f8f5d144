# SPDX-License-Identifier: GPL-2.0-only
"""The library on a host without the module (FSOCKET_BACKEND=kernel): test programs of the guest
that need neither the module nor eight CPUs."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "library/libfsocket.so"
PROGRAMS = ("test_kernel_descriptors", "test_kernel_calls")
EACH = [(program, name) for program in PROGRAMS
        for name in re.findall(r"\bT\((\w+)\),", (ROOT / f"tests/guest/{program}.c").read_text())]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descriptors")
    subprocess.run(["make", "-s", "-C", ROOT / "library", "libfsocket.so"], check=True)
    for program in PROGRAMS:
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", folder / program,
                        ROOT / f"tests/guest/{program}.c", "-lcmocka"], check=True)

    def run_it(program, name, **environment):
        done = subprocess.run([folder / program, name], capture_output=True, text=True, timeout=100,
                              check=False, env={**os.environ, **environment})
        assert done.returncode == 0 and "1 test(s)." in done.stdout, done.stdout + done.stderr
    return run_it


@pytest.mark.parametrize("program, name", EACH)
def test_plain(run, program, name):
    """What the tests demand is what the kernel does by itself."""
    run(program, name)


@pytest.mark.parametrize("program, name", EACH)
def test_without_module_and_kernel_backend(run, program, name):
    run(program, name, LD_PRELOAD=str(LIBRARY))


@pytest.mark.parametrize("program, name", EACH)
def test_with_the_kernel_backend(run, program, name):
    # A program that requires a group of its own ends if it cannot have one.
    required = "0" if name == "test_few_descriptors" else "1"
    run(program, name, LD_PRELOAD=str(LIBRARY), FSOCKET_BACKEND="kernel",
        FSOCKET_REQUIRED=required)
