# SPDX-License-Identifier: GPL-2.0-only
"""
The network tests of Debian's Python, under the library with everything on: each has the
result that it has without.
"""
import shlex
import xml.etree.ElementTree as ET

import pytest

from conftest import KERNELS
from test_load import switches  # noqa: F401 a fixture

# On one kernel, with the modules of asyncio that open connections, and the loop that uses epoll:
# the rest, which the library does not see, would take three more minutes.
pytestmark = [pytest.mark.usefixtures("quiet_kernel"),
              pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")]
MODULES = ["test_socket", "test_epoll", "test_selectors", "test_socketserver",
           *(f"test_asyncio.test_{part}" for part in
             ("events", "sock_lowlevel", "server", "streams", "selector_events", "sendfile"))]
IGNORED = ["*.SelectEventLoopTests.*", "*.PollEventLoopTests.*", "*.SelectSelectorTestCase.*",
           "*.PollSelectorTestCase.*", "test_subprocess*"]
XML = "/run/fsbench-python.xml"


def results(lab, preload, tests=()):
    """{test: passed, skipped or failed}; all tests, or those named."""
    only = "".join(f"{name}\n" for name in tests)
    lab.server("cat > /run/fsbench-python.only", stdin=only)
    modules = sorted({".".join(name.split(".")[1:-2]) for name in tests} or MODULES)
    # Its status is that of the tests. One test opens as many files as it may.
    done = lab.server(
        f"cd /run && rm -f {XML}; ulimit -n 8192; "
        f"{preload} timeout 280 python3 -m test -u network -j8 --junit-xml {XML} "
        f"{'--matchfile fsbench-python.only' if tests else ''} "
        f"{' '.join(f'--ignore {shlex.quote(name)}' for name in IGNORED)} "
        f"{' '.join(modules)} 2>&1", check=False, limit=300)
    text = lab.server(f"cat {XML}", check=False).stdout
    assert text, done.stdout
    return {case.get("name"): "skipped" if case.find("skipped") is not None
            else "passed" if len(case) == 0 else "failed"
            for case in ET.fromstring(text).iter("testcase")}


def test_python(lab, switches):  # noqa: F811
    switches("enable_local_established", "enable_direct_tcp", "enable_rps_framework",
             "enable_receive_flow_deliver", "enable_receive_cpu_selection", "enable_skb_pool")
    lab.server("fsocketctl set enable_socket_pool_size=64")
    try:
        preload = "LD_PRELOAD=/usr/local/lib/libfsocket.so FSOCKET_REQUIRED=1"
        under = results(lab, preload)
        assert len(under) > 900 and list(under.values()).count("passed") > 0.7 * len(under)
        # A test that passes is right. One that fails runs without the library, and once more
        # with it: the emulated machine is slow, and some tests have short time limits.
        others = [name for name, result in under.items() if result != "passed"]
        assert others
        plain = results(lab, "", others)
        differ = [name for name in others if plain[name] != under[name]]
        if differ:
            again = results(lab, preload, differ)
            assert again == {name: plain[name] for name in differ}
    finally:
        lab.server("fsocketctl set enable_socket_pool_size=0")
