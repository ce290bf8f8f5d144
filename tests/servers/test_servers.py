# SPDX-License-Identifier: GPL-2.0-only
"""
Real servers: each connection answered, also while they are reloaded; plain, with the module,
and with the kernel backend, for which the module is not loaded.

SERVER_CONNECTIONS: how many (400); SERVER_RESULTS: a file to which a line is added for each,
from which table.py makes docs/servers.md. Servers whose package the lab lacks are left out.
"""
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from conftest import KERNELS, ROOT
from confs import HERE
from tried import SERVERS

FOLDER = Path(__file__).resolve().parent
CONNECTIONS = os.environ.get("SERVER_CONNECTIONS", "400")
ALL = "LAB_EXTRA" in os.environ
# make test has time for one server of each kind that the lab's own image has.
FEW = ["nginx", "HAProxy -W, three reloads", "Redis, io-threads, BGSAVE"]
pytestmark = pytest.mark.parametrize("lab", KERNELS if ALL else KERNELS[:1], indirect=True,
                                     scope="session")


@pytest.fixture(scope="module")
def folder(lab):
    """Installs on the server the programs beside its packages."""
    subprocess.run(["make", "-s", "-C", FOLDER, *(["go_server"] if ALL else []), "ask"], check=True)
    subprocess.run(["make", "-s", "-C", ROOT / "demo", "asan"], check=True)
    tar = subprocess.run(["tar", "-c", "--exclude=.go", "-C", FOLDER, ".", "-C", ROOT / "demo",
                          "server-asan"], check=True, capture_output=True).stdout
    subprocess.run([*lab.server_argv, f"mkdir -p {HERE}; tar -C {HERE} -x --no-same-owner"],
                   input=tar, check=True)
    return HERE


@pytest.fixture(scope="module")
def plain(lab):
    """The result of each server without the library, on this kernel, by name."""
    return {}


@pytest.fixture(scope="module", params=["plain", "module", "kernel"])
def side(request, lab):
    if request.param == "kernel":
        lab.server("rmmod fastsocket")
    yield request.param
    if request.param == "kernel":
        lab.server("modprobe fastsocket")


@pytest.mark.parametrize("name", SERVERS if ALL else FEW)
def test_server(lab, quiet_kernel, folder, plain, side, name):
    done = lab.server(f"cd {folder}; python3 check.py '{name}' {CONNECTIONS} {side}", limit=900)
    result = json.loads(done.stdout.splitlines()[-1])
    if "missing" in result:
        pytest.skip(f"the lab has no {result['missing']}")
    if "SERVER_RESULTS" in os.environ:
        result["day"] = time.strftime("%Y-%m-%d", time.gmtime())
        with open(os.environ["SERVER_RESULTS"], "a", encoding="utf-8") as results:
            results.write(json.dumps(result) + "\n")
    if side == "plain":
        plain[name] = result
    assert result["load"]["failed"] == 0, result
    # Some lose connections on a reload even without the library.
    if "reload" in result and name in plain and not plain[name]["reload"]["failed"]:
        assert result["reload"]["failed"] == 0, result
    # The demo pins its workers itself.
    assert set(result["narrowed"]) <= set(plain.get(name, result)["narrowed"]), result
    if side != "plain" and SERVERS[name]["gains"] in (True, side):
        assert result["local"] > 0, result
