# SPDX-License-Identifier: GPL-2.0-only
"""The effects of the lab's script on this machine."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from made import OTHER_SERVER

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "playbooks/roles/lab/files"


@pytest.fixture(name="image")
def image_of(tmp_path):
    """Runs a command of lab.sh with a script as mmdebstrap; returns the process that has ended."""
    script, stub = tmp_path / FOLDER / "lab.sh", tmp_path / "bin/mmdebstrap"
    for folder in (FOLDER, "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    stub.parent.mkdir(parents=True)
    (tmp_path / "device").mkdir()
    (tmp_path / "device/null").touch()

    def make(text, command="image"):
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
        return subprocess.run(
            [script, command], check=False, capture_output=True, text=True,
            env={**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"})
    return make


def test_the_image_has_each_servers_packages(image, tmp_path):
    """And the image is made anew when a server is added: packages are part of its recipe."""
    (tmp_path / "experiments/servers/other.py").write_text(OTHER_SERVER, encoding="utf-8")
    assert image(f"echo \"$@\" > {tmp_path}/asked; exit 3").returncode
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    names = asked.partition("--include=")[2].split()[0].split(",")
    assert {"gcc", "nginx-light", "other-server", "other-modules"} <= set(names)
    assert len(names) == len(set(names))
    (tmp_path / "experiments/servers/other.py").write_text("", encoding="utf-8")
    done = image("exit 3")
    assert done.returncode and "experiments/packages.py does not say which" in done.stderr


def test_a_killed_image_leaves_nothing_mounted(image, tmp_path):
    """So that whoever deletes the checkout does not delete this machine's devices."""
    tree, device = tmp_path / ".lab/tree.new", tmp_path / "device"
    done = image(f"mkdir -p '{tree}/dev'; mount --bind '{device}' '{tree}/dev'; kill -9 $$")
    try:
        assert done.returncode, done.stdout
        assert (tree / "dev").exists()
        assert str(tree) not in Path("/proc/mounts").read_text(encoding="utf-8")
        assert image("exit 3").returncode and not (tree / "dev").exists()
        assert (device / "null").exists()
    finally:
        subprocess.run(["umount", tree / "dev"], check=False, capture_output=True)


def test_an_image_spares_what_is_mounted(image, tmp_path):
    """As versions left it that mounted in the namespace of this machine."""
    mounted, device = tmp_path / ".lab/tree.new/a b/dev", tmp_path / "device"
    mounted.mkdir(parents=True)
    subprocess.run(["mount", "--bind", device, mounted], check=True)
    try:
        for command in ("image", "clean"):
            done = image("exit 3", command)
            assert done.returncode and "umount them" in done.stderr, done.stderr
            assert (device / "null").exists()
    finally:
        subprocess.run(["umount", mounted], check=False, capture_output=True)
