# SPDX-License-Identifier: GPL-2.0-only
"""The effects of the lab's script on this machine."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "playbooks/roles/lab/files"


@pytest.fixture(name="image")
def image_of(tmp_path):
    """Runs a command of lab.sh with a script as mmdebstrap; returns the process that has ended."""
    script, stub = tmp_path / FOLDER / "lab.sh", tmp_path / "bin/mmdebstrap"
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER)
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
