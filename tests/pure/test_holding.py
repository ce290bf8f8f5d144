# SPDX-License-Identifier: GPL-2.0-only
"""A host is held by one sweep, and puts back what was changed if that dies."""
import os
import signal
import subprocess
import sys
import time

import pytest

import holding
from hosts import Host, RunError

HERE = Host("the server", ["sh", "-c"], "server.sh")


@pytest.fixture(name="state")
def folder_of_records(tmp_path, monkeypatch):
    """What is put back is a file, by a script of our own."""
    monkeypatch.setattr(holding, "LOCKS", str(tmp_path))
    restore = tmp_path / "restore.sh"
    restore.write_text('sleep 0.2; echo put back > "$1/done"\n')
    monkeypatch.setattr(holding, "RESTORE", restore)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_a_sweep_that_ends_leaves_it_to_the_playbook(state):
    holding.release(holding.hold([HERE], [str(state)], True), True)
    assert not (state / "done").exists()


def test_an_interrupted_sweep_waits_until_all_is_put_back(state):
    holding.release(holding.hold([HERE], [str(state)], True), False)
    assert (state / "done").exists()


@pytest.mark.parametrize("script, sentence", [
    ("echo some output; echo else >&2; echo 'h: these cannot be put back: a=1; run teardown.yml "
     "again' >&2; exit 1", "h: these cannot be put back: a=1; run teardown.yml again"),
    # As the end of ssh, when a connection is lost.
    ("kill -KILL $PPID", "restoring ended with status -9")])
def test_a_host_that_is_not_as_it_was_is_named(state, capsys, script, sentence):
    """After Ctrl-C nobody else would say it."""
    holding.RESTORE.write_text(script)
    holding.release(holding.hold([HERE], [str(state)], True), False)
    assert capsys.readouterr().out == (
        f"the server is not as it was before: run teardown.yml ({sentence})\n")
    holding.release(holding.hold([HERE], [str(state)], True), True)
    assert not capsys.readouterr().out


def test_nothing_is_put_back_in_the_lab(state):
    holding.release(holding.hold([HERE], [str(state)], False), False)
    assert not (state / "done").exists()


def test_one_sweep_at_a_time(state, monkeypatch):
    held = holding.hold([HERE], [str(state)], True)
    monkeypatch.setattr(holding, "SHELL", holding.SHELL.replace("-w 30", "-w 0.1"))
    with pytest.raises(RunError, match="the server is used by another sweep: wait for its end"):
        holding.hold([HERE], [str(state)], True)
    holding.release(held, True)
    holding.release(holding.hold([HERE], [str(state)], True), True)
    assert not (state / "done").exists()


def test_a_host_that_is_not_there():
    for argv in (["false"], ["no-such-program"]):
        with pytest.raises(RunError, match="the server cannot be reached"):
            holding.hold([Host("the server", argv, "server.sh")], ["/x"], True)


DYING = """import sys, time
sys.path.insert(0, {experiments!r})
import pathlib, holding
from hosts import Host
holding.LOCKS, holding.RESTORE = {folder!r}, pathlib.Path({folder!r}) / "restore.sh"
held = holding.hold([Host("the server", ["sh", "-c"], "server.sh")], [{state!r}], True)
print("held", flush=True)
time.sleep(60)
"""


def test_a_controller_that_crashes(state, monkeypatch):
    """With all of its processes but those on the host, whose log says what was not put back."""
    (state.parent / "logger").write_text(f'#!/bin/sh\necho "$*" > {state}/log\n')
    (state.parent / "logger").chmod(0o755)
    monkeypatch.setenv("PATH", f"{state.parent}:{os.environ['PATH']}")
    with open(holding.RESTORE, "a", encoding="utf-8") as file:
        file.write("echo 'h: these cannot be put back: a=1' >&2\nexit 1\n")
    text = DYING.format(experiments=str(holding.contract.ROOT / "experiments"),
                        folder=str(state.parent), state=str(state))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE,
                          start_new_session=True) as process:
        assert process.stdout.readline() == b"held\n"
        os.killpg(process.pid, signal.SIGKILL)
    log = state / "log"
    for _ in range(300):
        # It is made before it is written to.
        if log.exists() and log.read_text():
            break
        time.sleep(0.1)
    assert (state / "done").read_text() == "put back\n"
    assert log.read_text() == "-t fsbench -- h: these cannot be put back: a=1\n"
