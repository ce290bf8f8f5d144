#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Holds the hosts of a sweep for its playbook, from before anything is changed to the end.

    guard.py PID HOSTS

PID: the process of the playbook. HOSTS: {"server": argv, "loadgen": [argv, ...], "states": [path,
...]} as JSON, which run.py explains. The program prints "held", or why the hosts cannot be held.
If the playbook ends by itself, it sends SIGTERM first. If it ends otherwise, the hosts put back
what was changed; if this machine crashes, they do so as well (holding.py).
"""
import argparse
import json
import os
import select
import signal
import sys

import holding
from hosts import Generators, Host, RunError


class Released(Exception):
    """The playbook has put back what it has changed."""


def released(*_):
    raise Released


def main():
    parser = argparse.ArgumentParser(description="Hold the hosts of a sweep for its playbook.")
    parser.add_argument("pid", type=int, help="the process of the playbook")
    parser.add_argument("hosts", type=json.loads, help="the hosts, as JSON")
    args = parser.parse_args()
    playbook = os.pidfd_open(args.pid)
    hosts = [Host("the server", args.hosts["server"], "server.sh"),
             *Generators(args.hosts["loadgen"]).hosts]
    held = holding.hold(hosts, args.hosts["states"], True, sweep=True)
    keep = False
    try:
        signal.signal(signal.SIGTERM, released)
        try:
            print("held", flush=True)
        except BrokenPipeError:
            pass    # The playbook has ended meanwhile.
        # From now on, what there is to say goes to the terminal of the playbook.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        select.select([playbook], [], [])
    except Released:
        keep = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    holding.release(held, keep)


if __name__ == "__main__":
    try:
        main()
    except (RunError, OSError) as error:
        print(error, flush=True)
        sys.exit(1)
