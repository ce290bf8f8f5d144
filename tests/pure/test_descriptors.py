# SPDX-License-Identifier: GPL-2.0-only
"""The library on a host without the module (FSOCKET_BACKEND=kernel): test programs of the guest
that need neither the module nor eight CPUs."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "test_kernel_descriptors"
NAMES = re.findall(r"\bT\((\w+)\),", (ROOT / f"tests/guest/{PROGRAM}.c").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("descriptors")
    subprocess.run(["make", "-s", "-C", ROOT / "library", "libfsocket.so"], check=True)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", folder / PROGRAM,
                    ROOT / f"tests/guest/{PROGRAM}.c", "-lcmocka"], check=True)

    def run_it(name, **environment):
        done = subprocess.run([folder / PROGRAM, name], capture_output=True, text=True, timeout=100,
                              check=False, env={**os.environ, **environment})
        assert done.returncode == 0 and "1 test(s)." in done.stdout, done.stdout + done.stderr
    return run_it


@pytest.mark.parametrize("name", NAMES)
def test_plain(run, name):
    """What the tests demand is what the kernel does by itself."""
    run(name)


@pytest.mark.parametrize("name", NAMES)
def test_without_module_and_kernel_backend(run, name):
    run(name, LD_PRELOAD=str(ROOT / "library/libfsocket.so"))


@pytest.mark.parametrize("name", NAMES)
def test_with_the_kernel_backend(run, name):
    # A program that requires a group of its own ends if it cannot have one.
    required = "0" if name == "test_few_descriptors" else "1"
    run(name, LD_PRELOAD=str(ROOT / "library/libfsocket.so"), FSOCKET_BACKEND="kernel",
        FSOCKET_REQUIRED=required)
