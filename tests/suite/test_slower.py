# SPDX-License-Identifier: GPL-2.0-only
"""A server that needs a twentieth more instructions is found by the counts, on any machine."""
import subprocess

import pytest

import compare
import counts
import loads
import proc
import run as runner
from conftest import KERNELS, ROOT

# The server's own instructions do not depend on the kernel.
pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
REQUESTS, WORKERS = 400, 8
# Of the demo's, for each request, without the library.
INSTRUCTIONS = 3435


def install(lab, folder, instructions):
    """A library that wastes so many instructions; its path on the server."""
    library = folder / f"slower-{instructions}.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    f"-DINSTRUCTIONS={instructions}", "-o", library,
                    ROOT / "tests/suite/slower.c"], check=True)
    subprocess.run([*lab.server_argv, f"cat > /usr/local/lib/{library.name}"], check=True,
                   input=library.read_bytes())
    return f"/usr/local/lib/{library.name}"


def counted(lab, preload):
    """What summarises a repetition that counts, of a server under this library."""
    counter = counts.Emulator(runner.Host("the server", lab.server_argv, "server.sh"))
    loadgen = runner.Host("the load generator", lab.loadgen_argv, "load.sh")
    target = f"http://{lab.address}/"
    lab.server("systemd-run -q --collect --unit=fsbench-slower -E LD_PRELOAD=" + preload
               + f" /usr/local/bin/fsbench-server -m reuseport -w {WORKERS}")
    try:
        lab.server("until ss -Hltn sport = :80 | grep -q .; do sleep 0.1; done; sleep 1")
        loadgen.run("warm-up", "ab", target, 40, 400, WORKERS, limit=120)
        counter.start()
        try:
            loadgen.run("warm-up", "ab", target, 40, 100, WORKERS, limit=120)
            counter.zero()
            load = proc.sections(loadgen.run("ab", target, 40, REQUESTS, WORKERS, limit=300))
            metrics, _ = loads.parsed("ab", load)
            assert metrics["requests"] == REQUESTS and not metrics["failed"]
            return counter.stop(REQUESTS)[0]["user_instructions_per_req"]
        except BaseException:
            counter.abandon()
            raise
    finally:
        lab.server("systemctl stop fsbench-slower")


def test_a_twentieth_more_instructions_are_found(lab, tmp_path):
    """By the least of two repetitions, as compare.py does it."""
    lab.server("modprobe -r fastsocket")
    try:
        plain = install(lab, tmp_path, 2)
        slower = install(lab, tmp_path, INSTRUCTIONS // 20)
        found = [counted(lab, library) for library in (plain, slower) * 2]
    finally:
        lab.server("modprobe fastsocket")
    before, after = min(found[::2]), min(found[1::2])
    assert compare.COUNTS["user_instructions_per_req"].limit < after / before < 1.07, found
