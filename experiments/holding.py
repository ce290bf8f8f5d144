# SPDX-License-Identifier: GPL-2.0-only
"""Holds a host for one sweep. A sweep that dies leaves no setting behind.

A shell on the host has a lock and waits for a word from here. If it sees the end of its input
instead, the sweep was interrupted, or its machine has crashed, and nobody else will put back what
the playbooks have changed: so the shell does.
"""
import shlex
import subprocess
import threading

import contract
from hosts import RunError

RESTORE = contract.ROOT / "playbooks/roles/restore/files/restore.sh"
# The folder of the locks. A lock is named after the folder of records, since one machine may
# be both hosts of a lab.
LOCKS = "/run"
# The seconds that the previous sweep may take to restore settings, or a host to answer.
PATIENCE_S = 30
# Its arguments are the lock's path, a shell script that restores settings, and the folder of
# records.
SHELL = f"""trap '' INT TERM HUP
exec 9> "$0" || exit
flock -w {PATIENCE_S} 9 || {{ echo held; exit; }}
echo locked
read -r word || true
[ "$word" = keep ] || sh -c "$1" restore "$2" > /dev/null 2>&1
"""


class Hold:
    """A host that is held. restores: the host itself restores changed settings if we die."""

    def __init__(self, host, state, restores):
        lock = f"{LOCKS}/fsbench{state.replace('/', '-')}.lock"
        restore = RESTORE.read_text(encoding="utf-8") if restores else ":"
        self.host = host
        try:
            # Ctrl-C must not end the shell, which ends by a word from here or after this process.
            self.process = subprocess.Popen(
                [*host.argv, shlex.join(["exec", "sh", "-c", SHELL, lock, restore, state])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True)
        except OSError as error:
            raise RunError(f"{host.name} cannot be reached: {error}") from error
        watchdog = threading.Timer(2 * PATIENCE_S, self.process.kill)
        watchdog.start()
        answer = self.process.stdout.readline()
        watchdog.cancel()
        if answer == b"locked\n":
            return
        self.release(True)
        if answer == b"held\n":
            raise RunError(f"{host.name} is used by another sweep: wait for its end")
        raise RunError(f"{host.name} cannot be reached, or not as root")

    def release(self, keep):
        """Ends the hold. keep: settings stay, since the playbook that runs this restores them."""
        try:
            if keep:
                self.process.stdin.write(b"keep\n")
            self.process.stdin.close()
        except OSError:
            pass    # The shell has ended.
        try:
            self.process.wait(2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"{self.host.name} still puts back what was changed: look with teardown.yml "
                  "whether it was all", flush=True)


def hold(hosts, states, restores):
    """Returns a Hold of each host; states: the folder of records of each."""
    held = []
    try:
        for host, state in zip(hosts, states):
            held.append(Hold(host, state, restores))
    except BaseException:
        release(held, True)
        raise
    return held


def release(held, keep):
    for one in held:
        one.release(keep)
