# SPDX-License-Identifier: GPL-2.0-only
"""Run a command on the controller and show its output line by line.

ansible.builtin.command shows nothing until the command has ended, which a sweep
does in many minutes.

argv: the command, a list.
chdir: where to run it.

In check mode the command is skipped, unless the task says check_mode: false.
"""
import subprocess

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """The action; there is no module part."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("argv", "chdir"))

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = self._task.args
        argv = [str(word) for word in args["argv"]]
        if self._task.check_mode:
            result.update(skipped=True, msg="would run: " + " ".join(argv), stdout_lines=[])
            return result
        lines = []
        # Ctrl-C reaches the command as it reaches this process. If this process dies for
        # another reason, the kernel sends the command SIGTERM (setpriv --pdeathsig).
        with subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *argv], cwd=args.get("chdir"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                self._display.display(line.rstrip("\n"))
                lines.append(line.rstrip("\n"))
        if process.returncode:
            result.update(
                failed=True,
                msg=lines[-1] if lines else f"{argv[0]} ended with {process.returncode}")
        else:
            result.update(changed=True, stdout_lines=lines)
        return result
