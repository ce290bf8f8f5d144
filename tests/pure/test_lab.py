# SPDX-License-Identifier: GPL-2.0-only
"""The effects of the lab's script on this machine."""
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "playbooks/roles/lab/files/lab.sh"


def test_an_image_after_a_killed_one_spares_what_is_mounted(tmp_path):
    """The tree of the killed one, in which /dev and others are still mounted, is removed."""
    script = tmp_path / SCRIPT
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / SCRIPT, script)
    mounted, device = tmp_path / ".lab/tree.new/a b/dev", tmp_path / "dev"
    mounted.mkdir(parents=True)
    device.mkdir()
    (device / "null").touch()
    stub = tmp_path / "bin/mmdebstrap"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\nexit 3\n")
    stub.chmod(0o755)
    subprocess.run(["mount", "--bind", device, mounted], check=True)
    try:
        done = subprocess.run(
            [script, "image"], check=False, capture_output=True, text=True,
            env={**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"})
        assert done.returncode, done.stdout
        assert (device / "null").exists(), done.stderr
        assert not mounted.exists()
    finally:
        subprocess.run(["umount", mounted], check=False, capture_output=True)
