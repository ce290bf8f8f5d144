#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Searches for a few steps of a run of the fuzzer that suffice to make it fail.

Each attempt that fails costs a boot of the lab, since the guest is broken then; those that
pass share one. The steps are written to .lab/steps, for fuzz --only.
"""
import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LAB = ROOT / "playbooks/roles/lab/files/lab.sh"
SOURCES = "/usr/local/src/fsbench"
# As in fuzz.c: after this many steps everything is closed.
EPISODE = 200


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     epilog="All else is passed on to fuzz, for instance --root.")
    parser.add_argument("--kernel", default="6.1-kasan", help="one that tests/debug/build.sh made")
    parser.add_argument("--cpus", default="4", help="of the guest")
    parser.add_argument("--seed", required=True)
    parser.add_argument("--steps", type=int, default=100000, help="in which it fails")
    parser.add_argument("--minutes", type=float, default=60, help="after which the best is enough")
    return parser.parse_known_args()


class Guest:
    """A lab that is booted again when it has failed."""

    def __init__(self, options, fuzz):
        self.options = options
        self.fuzz = fuzz
        self.clean = False
        self.boots = 0
        self.stage = subprocess.run([ROOT / "tests/debug/stage.sh", options.kernel],
                                    check=True, stdout=subprocess.PIPE).stdout

    def ssh(self, command, stdin=b"", limit=900):
        return subprocess.run([LAB, "ssh", command], input=stdin, check=False, timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode(
                                  errors="replace")

    def boot(self):
        subprocess.run([LAB, "down"], check=True)
        subprocess.run([LAB, "up", "--kernel", self.options.kernel, "--cpus", self.options.cpus],
                       check=True, stdout=subprocess.DEVNULL)
        self.ssh("tar -C / -x --no-same-owner; cd /usr/local/src/fsbench/kmod-$(uname -r); "
                 "install -D fastsocket.ko /lib/modules/$(uname -r)/updates/fastsocket.ko; "
                 "depmod; modprobe fastsocket", self.stage)
        self.boots += 1
        self.clean = True

    def fails(self, arguments, steps=()):
        """The output of the run if it fails, else None."""
        if not self.clean:
            self.boot()
        # The output does not go to ssh itself, since a stuck process would keep ssh waiting.
        said = self.ssh("cat > /tmp/only; timeout 800 "
                        f"{SOURCES}/tests/guest/fuzz/fuzz --seed {self.options.seed} "
                        f"{arguments} {' '.join(self.fuzz)} > /tmp/said 2>&1 < /dev/null; "
                        "echo status $?; cat /tmp/said; dmesg | grep -B2 -A20 Comm: | head -60",
                        "\n".join(map(str, steps)).encode())
        if "status 0" in said:
            return None
        self.clean = False
        return said


def windows(last):
    """The steps up to the last: of its episode, then of more and more before."""
    count = 1
    while True:
        first = max(0, (last // EPISODE + 1 - count) * EPISODE)
        yield list(range(first, last + 1))
        if not first:
            return
        count *= 4


def shorten(steps, fails, deadline):
    """Leaves out parts, smaller and smaller ones, for as long as it still fails."""
    size = (len(steps) + 1) // 2
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(steps) and time.monotonic() < deadline:
            rest = steps[:at] + steps[at + size:]
            if rest and fails(rest):
                steps = rest
                print(f"{len(steps)} steps fail", flush=True)
            else:
                at += size
        size //= 2
    return steps


def main():
    options, fuzz = parse()
    deadline = time.monotonic() + 60 * options.minutes
    guest = Guest(options, fuzz)
    said = guest.fails(f"--steps {options.steps}")
    if not said:
        sys.exit(f"seed {options.seed} does not fail within {options.steps} steps, alone")
    print(said)
    named = re.search(r"Comm: f0\.0-(\d+)", said) or re.search(r"process 0, step (\d+)", said)
    last = int(named[1])

    def fails(steps):
        return guest.fails("--only /tmp/only", steps)

    for steps in windows(last):
        if fails(steps):
            break
    else:
        sys.exit(f"the steps up to {last} do not fail again: it depends on more than the calls")
    print(f"steps {steps[0]} to {last} fail", flush=True)
    steps = shorten(steps, fails, deadline)
    (ROOT / ".lab/steps").write_text("\n".join(map(str, steps)) + "\n")
    print(f"after {guest.boots} boots: .lab/steps has the {len(steps)} that fail: "
          + " ".join(map(str, steps)))
    subprocess.run([LAB, "down"], check=True)


if __name__ == "__main__":
    main()
