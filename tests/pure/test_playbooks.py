# SPDX-License-Identifier: GPL-2.0-only
"""The playbooks without hosts."""
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def results():
    return sorted(str(path) for path in (ROOT / "results").glob("*/*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="asking for the lab needs root")
def test_checking_a_sweep_changes_nothing():
    lab = ROOT / ".lab/pid"
    before, was_up = results(), lab.exists()
    done = subprocess.run(["ansible-playbook", "run-sweep.yml", "--check", "--diff"],
                          cwd=ROOT / "playbooks", capture_output=True, text=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert results() == before
    assert lab.exists() == was_up
