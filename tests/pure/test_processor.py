# SPDX-License-Identifier: GPL-2.0-only
"""What real hosts count: server.sh and counts.py with a perf of this test's, for lack of a PMU."""
import os
import subprocess

import pytest

import counts
from test_sweep import ROOT

# It knows the events of $EVENTS, and counts a thousand of the first, two thousand of the second...
PERF = r"""#!/usr/bin/python3
import os
import signal
import sys

options = dict(zip(sys.argv[1:], sys.argv[2:]))
events = options["-e"].split(",")
for event in events:
    if event not in os.environ["EVENTS"].split():
        sys.exit(f"event syntax error: '{event}'")
counted = "".join(
    f"<not supported>,,{event},0,100.00,,\n" if event in os.environ["NOT_HERE"].split()
    else f"{1000 * number},,{event},1,100.00,,\n" for number, event in enumerate(events, 1))


def end(*_):
    with open(options["-o"], "w") as file:
        file.write(counted)
    sys.exit()


if "-o" not in options:
    sys.stderr.write(counted)
    sys.exit()
signal.signal(signal.SIGINT, end)
control, ack = options["--control"].removeprefix("fifo:").split(",")
with open(control) as file:
    assert file.read() == "enable\n"
with open(ack, "w") as file:
    file.write("ack\n")
signal.pause()
"""
# What the script asks of systemd: one service, the number of which is in a file.
SYSTEMD = r"""#!/bin/bash
pid=$(cat "${0%/*}/pid" 2> /dev/null)
case ${0##*/} in
systemd-run)
    while [ "$1" != perf ]; do shift; done
    setsid "$@" < /dev/null &> /dev/null &
    echo $! > "${0%/*}/pid"
    ;;
systemctl)
    case "$*" in
    stop*) [ -z "$pid" ] || kill "$pid" 2> /dev/null ;;
    kill*) kill -INT "$pid" ;;
    *is-active*) [ -n "$pid" ] && [ -d "/proc/$pid" ] ;;
    esac
    ;;
esac
"""
ALWAYS = ["cycles", "instructions:k", "instructions:u", "cache-misses"]
METRICS = {"cycles_per_req": 10.0, "kernel_instructions_per_req": 20.0,
           "user_instructions_per_req": 30.0, "cache_misses_per_req": 40.0}
ICE_LAKE = ["mem_load_l3_hit_retired.xsnp_fwd", "mem_load_l3_miss_retired.remote_hitm"]


@pytest.fixture(name="counted")
def stub_server(tmp_path):
    """Returns the columns of a repetition of 100 requests, on a server whose perf has events."""
    for name, text in (("perf", PERF), ("systemd-run", SYSTEMD), ("systemctl", SYSTEMD)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    script = "".join((ROOT / "experiments" / name).read_text() for name in ("host.sh", "server.sh"))
    script = script.replace("run=/run/fsbench\n", f"run={tmp_path}/run\n")
    script = script.replace("trace=/sys/kernel/tracing\n", f"trace={tmp_path}\n")

    def ask(events, missing=()):
        class Server:
            """It runs the commands of server.sh here."""

            def run(self, word):
                return subprocess.run(
                    ["bash", "-s", "--", word], input=script.encode(), stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, check=True, timeout=20,
                    env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}",
                         "EVENTS": " ".join(events), "NOT_HERE": " ".join(missing)}).stdout

        counter = counts.counter(False, Server())
        counter.zero()
        metrics, files = counter.stop(100)
        assert list(files) == ["perf-stat.csv"]
        return metrics
    return ask


def test_a_processor_that_counts_only_what_all_do(counted):
    assert counted(ALWAYS) == METRICS


@pytest.mark.parametrize("own, expected", [
    (ICE_LAKE, 110.0), (ICE_LAKE[:1], 50.0), (["mem_load_l3_hit_retired.xsnp_hitm"], 50.0),
    (["mem_load_uops_l3_hit_retired.xsnp_hitm", "mem_load_uops_l3_miss_retired.remote_hitm"],
     110.0),
    # Where an older name is kept beside the new one, these loads are counted once.
    ([*ICE_LAKE, "mem_load_l3_hit_retired.xsnp_hitm"], 110.0)])
def test_loads_of_lines_that_another_core_has_changed(counted, own, expected):
    assert counted([*ALWAYS, *own]) == {**METRICS, "hitm_loads_per_req": expected}


def test_events_that_perf_knows_and_the_processor_has_not(counted):
    assert counted([*ALWAYS, *ICE_LAKE], ICE_LAKE) == METRICS


def test_a_processor_without_counters(counted):
    with pytest.raises(counts.CountError, match="has no counters that perf stat could read"):
        counted(ALWAYS, ALWAYS)
