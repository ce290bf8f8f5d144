# SPDX-License-Identifier: GPL-2.0-only
"""
Real servers, plain and preloaded: each connection answered, also while they are reloaded.

SERVER_CONNECTIONS: how many (400); SERVER_RESULTS: a file to which a line is added for each,
from which table.py makes docs/servers.md. Servers whose package the lab lacks are left out.
"""
import json
import os
import subprocess
from pathlib import Path

import pytest

from conftest import KERNELS
from tried import SERVERS

HERE = Path(__file__).resolve().parent
CONNECTIONS = os.environ.get("SERVER_CONNECTIONS", "400")
pytestmark = pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")


@pytest.fixture(scope="module")
def folder(lab):
    tar = subprocess.run(["tar", "-C", HERE, "-c", "."], check=True, capture_output=True).stdout
    subprocess.run([*lab.server_argv, "mkdir -p /run/servers; "
                    "tar -C /run/servers -x --no-same-owner"], input=tar, check=True)
    return "/run/servers"


# make test has time for one of each kind that the lab's own image has.
FEW = ["nginx", "HAProxy -W", "Redis, io-threads"]


@pytest.mark.parametrize("name", SERVERS if os.environ.get("LAB_EXTRA") else FEW)
def test_server(lab, quiet_kernel, folder, name):
    done = lab.server(f"cd {folder}; python3 check.py '{name}' {CONNECTIONS}", limit=400)
    result = json.loads(done.stdout.splitlines()[-1])
    if "missing" in result:
        pytest.skip(f"the lab has no {result['missing']}")
    if "SERVER_RESULTS" in os.environ:
        with open(os.environ["SERVER_RESULTS"], "a", encoding="utf-8") as results:
            results.write(json.dumps(result) + "\n")
    plain, ours = result["plain"], result["preloaded"]
    assert ours["load"]["failed"] == 0, result
    # Some lose connections when they are reloaded, by themselves.
    if "reload" in ours and not plain["reload"]["failed"]:
        assert ours["reload"]["failed"] == 0, result
    assert ours["narrowed"] == plain["narrowed"], result
    if SERVERS[name]["gains"]:
        assert ours["local"] > 0, result
