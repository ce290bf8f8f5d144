# SPDX-License-Identifier: GPL-2.0-only
"""A server that needs a twentieth more instructions is found by the counts, on any machine."""
import csv
import io
import subprocess

import pytest

import compare
import counts
import proc
import run as runner
import tools
from conftest import KERNELS, ROOT

# The server's own instructions do not depend on the kernel.
pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
REQUESTS, WORKERS = 400, 8
# The demo's instructions for each request, without the library.
INSTRUCTIONS = 3435


def install(lab, folder, instructions):
    """Builds a library that wastes this many instructions; returns its path on the server."""
    library = folder / f"slower-{instructions}.so"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
                    f"-DINSTRUCTIONS={instructions}", "-o", library,
                    ROOT / "tests/suite/slower.c"], check=True)
    subprocess.run([*lab.server_argv, f"cat > /usr/local/lib/{library.name}"], check=True,
                   input=library.read_bytes())
    return f"/usr/local/lib/{library.name}"


def counted(lab, preload):
    """A repetition that counts, of a server under this library: (metrics, files)."""
    counter = counts.Emulator(runner.Host("the server", lab.server_argv, "server.sh"))
    loadgen = runner.Host("the load generator", lab.loadgen_argv, "load.sh")
    ab = tools.TOOLS["ab"]

    def task(requests):
        return tools.Task(lab.address, 80, "/", 40, requests, WORKERS, 1)

    def warm_up(requests):
        loadgen.run("warm-up", *runner.separated(ab.warm_up(task(requests)))[1:], limit=120)

    lab.server("systemd-run -q --collect --unit=fsbench-slower -E LD_PRELOAD=" + preload
               + f" /usr/local/bin/fsbench-server -m reuseport -w {WORKERS}")
    try:
        lab.server("until ss -Hltn sport = :80 | grep -q .; do sleep 0.1; done; sleep 1")
        warm_up(400)
        counter.start()
        try:
            warm_up(100)
            counter.zero()
            load = proc.sections(loadgen.run(
                "load", *ab.files, *runner.separated(ab.commands(task(REQUESTS))), limit=300))
            metrics, _ = tools.parsed("ab", [load])
            assert metrics["requests"] == REQUESTS and not metrics["failed"]
            return counter.stop(REQUESTS)
        except BaseException:
            counter.abandon()
            raise
    finally:
        lab.server("systemctl stop fsbench-slower")


def share_with_a_name(text):
    """The share of the transfers of the lines in lines.csv."""
    rows = list(csv.DictReader(io.StringIO(text.decode())))
    named = sum(float(row["transfers_per_req"]) for row in rows if row["what"])
    return named / sum(float(row["transfers_per_req"]) for row in rows)


def test_a_twentieth_more_instructions_are_found(lab, tmp_path):
    """Compares the lesser of two repetitions, as compare.py does."""
    lab.server("modprobe -r fastsocket")
    try:
        plain = install(lab, tmp_path, 2)
        slower = install(lab, tmp_path, INSTRUCTIONS // 20)
        repetitions = [counted(lab, library) for library in (plain, slower) * 2]
    finally:
        lab.server("modprobe fastsocket")
    found = [metrics["user_instructions_per_req"] for metrics, _ in repetitions]
    before, after = min(found[::2]), min(found[1::2])
    assert compare.COUNTS["user_instructions_per_req"].limit < after / before < 1.07, found
    # Nearly all lines that move are known. The rest is memory of packets, and of vmalloc().
    for _, files in repetitions:
        assert share_with_a_name(files["lines.csv"]) > 0.8
        assert b",TCP+0x" in files["lines.csv"]
