# SPDX-License-Identifier: GPL-2.0-only
"""Test programs of the guest that need neither the module nor eight CPUs, on this host."""
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "library/libfsocket.so"


def source(program):
    return ROOT / f"tests/guest/{program}.c"


def each_of(*programs):
    """(program, name) of all tests of the programs."""
    return [(program, name) for program in programs
            for name in re.findall(r"\bT\((\w+)\),", source(program).read_text())]


def build(folder, programs):
    """Makes the library, and the programs in the folder, with what they load from there."""
    subprocess.run(["make", "-s", "-C", ROOT / "library", "libfsocket.so"], check=True)
    for program in programs:
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", folder / program,
                        source(program), "-lcmocka"], check=True)
    subprocess.run(["gcc", "-fPIC", "-shared", "-pthread", "-o", folder / "joining_plugin.so",
                    source("joining_plugin")], check=True)


def run(folder, program, name, **environment):
    """Runs one test of a program in the folder, which has to pass."""
    done = subprocess.run([folder / program, name], capture_output=True, text=True, timeout=100,
                          check=False, env={**os.environ, **environment})
    assert done.returncode == 0 and "1 test(s)." in done.stdout, done.stdout + done.stderr
