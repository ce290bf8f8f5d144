# SPDX-License-Identifier: GPL-2.0-only
"""Random calls of an unprivileged user, while root changes parameters, CPUs and the module."""
import contextlib
import os
import re
import subprocess
import time

import pytest

from conftest import KERNELS, LAB, REPORT, ROOT, SOURCES, UNPATCHED, talking

MODULE = "--module /lib/modules/$(uname -r)/updates/fastsocket.ko"
# Processes, threads, calls, seconds. A single process does the same each time.
SHORT = [(1, 1, 20000, 5), (4, 2, 100000, 15)]
# The debug kernels of a run make a million together.
LONG = [(1, 1, 100000, 300), (6, 2, 1000000 // len(KERNELS), 3600)]
RECEIVE_ON_EACH_CPU = ("for cpu in $(seq 0 $(($(nproc) - 1))); do "
                       "taskset -c $cpu ping -q -c 1 127.0.0.1 > /dev/null; done; sleep 1")


@pytest.mark.parametrize("size", [0, 1], ids=["alone", "together"])
def test_fuzz(lab, pytestconfig, size):
    """The kernel reports no fault, all processes go on, and nothing is left behind."""
    processes, threads, calls, seconds = (LONG if lab.debug else SHORT)[size]
    calls = int(os.environ.get("FUZZ_CALLS", calls))
    seconds = int(os.environ.get("FUZZ_SECONDS", seconds))
    # The seed is always the same, since otherwise make test would differ from day to day.
    seed = os.environ.get("FUZZ_SEED") or (int(time.time()) if lab.debug else 1)
    if lab.debug:
        with talking(pytestconfig):
            print(f"\nfuzzing {lab.kernel}: seed {seed}, {processes} processes, until {calls} "
                  f"calls or {seconds} s", flush=True)
    # Set it again, since other tests flush all rules.
    lab.server(UNPATCHED)
    lab.new_kernel_warnings()
    lab.server("echo 1 > /sys/kernel/debug/gcov/reset 2> /dev/null", check=False)
    # The output does not go to ssh itself, since a stuck process would keep ssh waiting.
    done = lab.server(f"{SOURCES}/tests/guest/fuzz/fuzz --root {MODULE} --seed {seed} "
                      f"--processes {processes} --threads {threads} "
                      f"--calls {calls} --seconds {seconds} > /tmp/fuzz 2>&1 < /dev/null; "
                      "status=$?; cat /tmp/fuzz; exit $status", check=False, limit=seconds + 200)
    with talking(pytestconfig) if lab.debug else contextlib.nullcontext():
        print(done.stdout.strip(), flush=True)
    log = lab.server("dmesg").stdout
    first = re.search(rf".*({REPORT})", log)
    reports = [line for line in lab.new_kernel_warnings() if re.search(REPORT, line)]
    if done.returncode or reports:
        # The next test has another guest.
        lab.note_death()
        subprocess.run([LAB, "down"], check=True)
    shown = log[first.start() if first else -2000:][:20000]
    assert done.returncode == 0 and not reports, (
        f"{done.stdout}{shown}\nonce more: FUZZ_SEED={seed}; shorter: "
        "tests/debug/shorten.py")


def test_no_page_is_lost(lab):
    """All pages of the skb pools return after the module has gone, of all tests until now."""
    lab.server("echo 1 > /sys/module/fastsocket/parameters/enable_skb_pool")
    lab.unload_module()
    lab.server("modprobe fastsocket")
    assert lab.pages_in_use()
    # A CPU that receives nothing keeps the packets that other CPUs have left to it to be freed
    # (skb_attempt_defer_free()), and an orphan of the fuzzer's connections keeps what it has.
    deadline = time.monotonic() + 120
    while any(lab.pages_in_use().values()):
        assert time.monotonic() < deadline, lab.server("ss -tanpoem").stdout
        lab.server(RECEIVE_ON_EACH_CPU)


def test_coverage(lab):
    """Continues after the last step of the run before."""
    if lab.server("test -d /sys/kernel/debug/gcov", check=False).returncode:
        pytest.skip("no gcov")
    report = subprocess.run([ROOT / "tests/debug/coverage.sh", lab.kernel], check=True,
                            stdout=subprocess.PIPE, text=True).stdout
    print(report)
    assert float(re.search(r"together .* ([\d.]+) %", report)[1]) >= 80, report


def test_leaks(lab):
    """No allocation of the runs before is lost."""
    if lab.server("test -e /sys/kernel/debug/kmemleak", check=False).returncode:
        pytest.skip("no kmemleak")
    # Objects that were seen once may be about to be freed.
    leaks = lab.server("cd /sys/kernel/debug; echo scan > kmemleak; sleep 6; echo scan > kmemleak; "
                       "cat kmemleak").stdout
    assert "fastsocket" not in leaks and "fsocket_" not in leaks, leaks
