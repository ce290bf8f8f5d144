# SPDX-License-Identifier: GPL-2.0-only
"""The module beside other work of a host: the scenarios of beside.py."""
import re
from pathlib import Path

import pytest

from conftest import SOURCES

PROGRAM = Path(__file__).resolve().with_name("beside.py")
SCENARIOS = re.search(r"^SCENARIOS = \[(.*)\]$", PROGRAM.read_text(), re.M)[1].split(", ")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_beside(lab, quiet_kernel, scenario):
    lab.server(f"timeout 200 python3 {SOURCES}/tests/guest/beside.py {scenario} 2>&1", limit=220)
    # The connections have released everything, so the module can be unloaded.
    lab.unload_module()
    lab.server("modprobe fastsocket")
