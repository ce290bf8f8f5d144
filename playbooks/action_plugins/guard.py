# SPDX-License-Identifier: GPL-2.0-only
"""Start or end experiments/guard.py, which outlives the playbook if that is interrupted.

argv: its command, without its arguments.
hosts: what it is to hold, a mapping; the result's pid is its process.
pid: instead of these, the process that is to end, since the playbook does.

In check mode nothing is started.
"""
import json
import os
import select
import signal
import subprocess

from ansible.plugins.action import ActionBase

# The seconds that it may take to let all hosts go.
LIMIT_S = 120


def terminal_of(pid):
    """Returns a file for the standard output of a process, or for nothing, where that is a socket
    or belongs to somebody else."""
    try:
        return open(f"/proc/{pid}/fd/1", "ab", buffering=0)
    except OSError:
        return open(os.devnull, "ab", buffering=0)


class ActionModule(ActionBase):
    """The action; there is no module part."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("argv", "hosts", "pid"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        if self._task.check_mode:
            result.update(skipped=True)
        elif "pid" in args:
            self.end(int(args["pid"]))
        else:
            result.update(self.start([str(word) for word in args["argv"]], args["hosts"]))
        return result

    @staticmethod
    def start(argv, hosts):
        """Returns the result of the task."""
        # This is a worker, which ends with the task, and may have no terminal. Its parent is the
        # playbook.
        playbook = os.getppid()
        with terminal_of(playbook) as terminal:
            # A session of its own does not get the terminal's Ctrl-C.
            process = subprocess.Popen([*argv, str(playbook), json.dumps(hosts)],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=terminal, text=True, start_new_session=True)
        said = process.stdout.readline().strip()
        if said != "held":
            return {"failed": True, "msg": said or f"{argv[-1]} ended with {process.wait()}"}
        return {"pid": process.pid}

    @staticmethod
    def end(pid):
        """Returns when the process has ended."""
        try:
            process = os.pidfd_open(pid)
            signal.pidfd_send_signal(process, signal.SIGTERM)
            select.select([process], [], [], LIMIT_S)
            os.close(process)
        except ProcessLookupError:
            pass
