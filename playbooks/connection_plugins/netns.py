# SPDX-License-Identifier: GPL-2.0-only
"""Run commands in a network namespace of the controller."""
import shlex

from ansible.plugins.connection.local import Connection as LocalConnection

DOCUMENTATION = """
name: netns
short_description: run commands in a network namespace of the controller
description:
  - As the local connection, but every command runs under C(ip netns exec).
author: Fastsocket Bench
options:
  namespace:
    description: the namespace; it has to exist
    type: str
    required: true
    vars:
      - name: ansible_host
"""


class Connection(LocalConnection):
    """Does what the local connection does, in another network namespace; files are the same."""

    transport = "netns"

    def exec_command(self, cmd, in_data=None, sudoable=True):
        if isinstance(cmd, (list, tuple)):
            cmd = shlex.join(cmd)
        cmd = shlex.join(
            ["ip", "netns", "exec", self.get_option("namespace"), "sh", "-c", cmd])
        return super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
