# SPDX-License-Identifier: GPL-2.0-only
"""How the sweep reaches a host of an inventory, without hosts: ssh and sudo are stubs."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hosts import Host

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
STUBS = {
    # As ssh does: what is behind the host is joined, and read by the login shell there.
    "ssh": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift 2; done
echo "$1" > "$STUBS/login"
shift
exec sh -c "$*"
""",
    "sudo": """#!/bin/sh
[ "$1" = -n ] || exit 1
shift
touch "$STUBS/sudo.used"
exec "$@"
"""}
# Words that a server's configuration and command line may have.
WORDS = ["plain", "two words", "config=worker 1;\n\n# it's \"quoted\" `x`\nlog $remote_addr \\n",
         "$PID $$", "", "*", "a && b; c", "ü"]

USERS = {"root": ["-e", "ansible_user=root", "-e", "ansible_become=false"],
         "a user with sudo": ["-e", "ansible_user=bench", "-e", "ansible_become=true"]}


def bench_argv(inventory, host, *options):
    """What the inventory says of one of its hosts."""
    done = subprocess.run(["ansible", "-i", f"inventory/{inventory}", host, "-m", "debug", "-a",
                           "var=bench_argv", *options], cwd=PLAYBOOKS, capture_output=True,
                          text=True, check=True)
    return json.loads(re.search(r"=> (\{.*\})", done.stdout, re.S)[1])["bench_argv"]


@pytest.fixture(name="stubs")
def stub_programs(tmp_path, monkeypatch):
    for name, text in STUBS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STUBS", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(not shutil.which("ansible"), reason="ansible is not installed")
@pytest.mark.parametrize("inventory", ["two-hosts.example.yml", "two-guests.yml"])
@pytest.mark.parametrize("user", USERS)
def test_words_arrive_as_they_are(inventory, user, stubs):
    host = Host("the server", bench_argv(inventory, "fsb-server", *USERS[user]), "load.sh")
    host.script = b"printf '%s\\0' \"$@\""
    assert host.run(*WORDS).decode().split("\0")[:-1] == WORDS
    sudo = user != "root"
    assert (stubs / "sudo.used").exists() == sudo
    assert (stubs / "login").read_text().startswith("bench@" if sudo else "root@")
