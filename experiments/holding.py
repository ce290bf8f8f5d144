# SPDX-License-Identifier: GPL-2.0-only
"""Holds a host for one sweep. A sweep that dies leaves no setting behind.

A shell on the host has a lock and waits for a word from here. If it sees the end of its input
instead, the sweep was interrupted, or its machine has crashed, and nobody else will put back what
the playbooks have changed: so the shell does.

run.py holds the hosts while it measures, and guard.py from the beginning of the playbook to its
end.
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
# Its arguments are the lock's path, a shell script that restores settings, the folder of
# records, and the path of a lock that it takes for restoring, or "". If restoring fails, its last
# message goes to us, and to the host's log, since we may have died; what writes to us then would
# be ended.
SHELL = f"""trap '' INT TERM HUP
exec 9> "$0" || exit
flock -w {PATIENCE_S} 9 || {{ echo held; exit; }}
echo locked
read -r word || true
[ "$word" != keep ] || exit 0
if [ -n "$3" ]; then exec 8> "$3"; flock -w {PATIENCE_S} 8; fi &&
told=$(sh -c "$1" restore "$2" 2>&1 > /dev/null) || {{
    told=$(echo "${{told:-another program is still changing settings}}" | tail -n 1)
    logger -t fsbench -- "$told" 2> /dev/null
    echo "$told"
    exit 1
}}
# What still waits for the other lock finds that this one is free (begin_changes() of host.sh).
exec 9>&-
"""


def lock_path(state, sweep=False):
    """The path, on a host with this folder of records, of the lock of those who change settings; or
    of that of a sweep, from its beginning to its end. host.sh names the same."""
    return f"{LOCKS}/fsbench{state.replace('/', '-')}{'.sweep' if sweep else ''}.lock"


class Hold:
    """A host that is held. restores: the host itself restores changed settings if we die; sweep:
    it is held for a sweep as a whole, and what changes settings meanwhile has the other lock."""

    def __init__(self, host, state, restores, sweep=False):
        words = [lock_path(state, sweep), RESTORE.read_text(encoding="utf-8") if restores else ":",
                 state, lock_path(state) if sweep else ""]
        self.host = host
        try:
            # Ctrl-C must not end the shell, which ends by a word from here or after this process.
            self.process = subprocess.Popen(
                [*host.argv, shlex.join(["exec", "sh", "-c", SHELL, *words])],
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
            told, _ = self.process.communicate(b"keep\n" if keep else b"", 2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            print(f"{self.host.name} still puts back what was changed: look with teardown.yml "
                  "whether it was all", flush=True)
            return
        if self.process.returncode and not keep:
            reason = (told.decode(errors="replace").strip()
                      or f"restoring ended with status {self.process.returncode}")
            print(f"{self.host.name} is not as it was before: run teardown.yml ({reason})",
                  flush=True)


def hold(hosts, states, restores, sweep=False):
    """Returns a Hold of each host; states: the folder of records of each, a list of paths."""
    held = []
    try:
        for host, state in zip(hosts, states):
            held.append(Hold(host, state, restores, sweep))
    except BaseException:
        release(held, True)
        raise
    return held


def release(held, keep):
    for one in held:
        one.release(keep)
