# SPDX-License-Identifier: GPL-2.0-only
"""The user's own server: the setup describes it under the key command.

argv      the words that start it, in the foreground, as root; @WORKERS@ is how many workers it is
          to have
port      where it listens (default 80), at all addresses
workers   which its workers are: children (default) of the process that is started, its threads,
          of which none may be anything else, or itself: then it has one
path      of the HTTP requests (default /)
answer    text that has to be in the answer: else a repetition is invalid

Workers that may run on several cores get one each, in the order of core_order() of host.sh, once
all are there.
"""
import re

from . import base

KEYS = {"argv", "port", "workers", "path", "answer"}
TOLD = ("children", "threads", "itself")


class Command(base.Server):
    title = "a server of one's own"
    pinned = False

    def of(self, setup):
        own, said = Command(self.name), setup["command"]
        own.argv = said["argv"]
        own.port = said.get("port", self.port)
        own.path = said.get("path", self.path)
        own.told = said.get("workers", self.told)
        own.answer = said["answer"]
        own.stoppable = own.told == "children"
        own.shares = own.told != "itself"
        return own

    def fault(self, setup):
        said = setup.get("command")
        if not isinstance(said, dict) or not {"argv", "answer"} <= set(said) <= KEYS:
            return ("server command: give under command argv and answer, and what else is "
                    f"needed of {', '.join(sorted(KEYS))}")
        if not isinstance(said["argv"], list) or not said["argv"]:
            return "command: argv: give a list of words"
        if not isinstance(said["answer"], str) or not said["answer"].strip():
            return "command: answer: give a text that is in every answer"
        if said.get("port", 80) not in range(1, 65536):
            return f"command: port {said['port']}: give one of 1 to 65535"
        if said.get("workers", "children") not in TOLD:
            return f"command: workers {said['workers']}: give one of {', '.join(TOLD)}"
        if not re.fullmatch(r"/\S*", str(said.get("path", "/"))):
            return f"command: path {said['path']}: give one that begins with /, without blanks"
        return None

    def program(self, work):
        return [str(word).replace("@WORKERS@", str(work.workers)) for word in self.argv]


SERVERS = [Command("command")]
