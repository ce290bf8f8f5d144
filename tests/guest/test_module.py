# SPDX-License-Identifier: GPL-2.0-only
"""The module and the library from inside the server: the C programs of this folder."""
import os
import re
from pathlib import Path

import pytest

from conftest import KERNELS

HERE = Path(__file__).resolve().parent
SOURCES = "/usr/local/src/fsbench"
FOLDER = f"{SOURCES}/tests/guest"


def names(program):
    return re.findall(r"\b(?:T|cmocka_unit_test)\((\w+)\),", (HERE / f"{program}.c").read_text())


def run_one(lab, environment, program, name, expected="$^"):
    """Runs a test; the kernel may log only expected warnings."""
    # Use one command, since there are hundreds of checks.
    seconds = 500 if lab.debug else 100
    done = lab.server(f"cd {FOLDER}; {environment} timeout {seconds} ./{program} {name} 2>&1; "
                      f"status=$?; {lab.warnings_command} >&2; exit $status", check=False)
    assert done.returncode == 0 and "1 test(s)." in done.stdout, done.stdout
    assert [line for line in lab.new_kernel_warnings(done.stderr)
            if not re.search(expected, line)] == []


def each_of(*programs, without=None):
    return pytest.mark.parametrize("program, name", [
        (program, name) for program in programs for name in names(program) if name != without])


@each_of("test_ioctl", "test_accept", "test_options", "test_stock", "test_inherit", "test_module")
def test_module(lab, program, name):
    run_one(lab, "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko", program, name)


@pytest.mark.parametrize("name", names("test_same"))
def test_same(lab, name):
    run_one(lab, "", "test_same", name)


def test_sealed_functions(lab):
    if lab.debug:
        pytest.skip("has no IBT, so nothing is sealed")
    done = lab.server("cd /sys/module/fastsocket/parameters; echo 8 > enable_socket_pool_size;"
                      "echo 2 > enable_skb_pool; echo 1 > enable_receive_flow_deliver;"
                      f"python3 {FOLDER}/sealed.py; status=$?; echo 0 > enable_socket_pool_size;"
                      "echo 0 > enable_skb_pool; echo 0 > enable_receive_flow_deliver;"
                      "exit $status", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", names("test_paths"))
def test_paths(lab, name):
    run_one(lab, f"POLICY_KO={SOURCES}/kmod-$(uname -r)/examples/policy_port.ko",
            "test_paths", name)


@each_of("test_listener", "test_limits", "test_workers", "test_cover", "test_abort")
def test_listener(lab, program, name):
    run_one(lab, "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko", program, name)


@pytest.mark.parametrize("name", names("test_bind"))
def test_bind(lab, name):
    run_one(lab, "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko",
            "test_bind", name)


@each_of("test_locality", "test_delivery")
def test_locality(lab, program, name):
    run_one(lab, f"POLICY_KO={SOURCES}/kmod-$(uname -r)/examples/policy_port.ko", program, name)


@each_of("test_sockfs", "test_pool_errors", "test_conformance", without="memory")
def test_sockfs(lab, program, name):
    run_one(lab, "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko", program, name)


# 10,000 connections, three times.
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_sockfs_memory(lab):
    if lab.debug:
        pytest.skip("its sockets take memory for checks, and a quarter of an hour")
    run_one(lab, "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko",
            "test_sockfs", "memory")


@pytest.mark.parametrize("name", names("test_library"))
def test_library(lab, name):
    run_one(lab, "LD_PRELOAD=/usr/local/lib/libfsocket.so", "test_library", name)


@pytest.mark.parametrize("name", names("test_ways"))
def test_ways(lab, name):
    run_one(lab, "LD_PRELOAD=/usr/local/lib/libfsocket.so", "test_ways", name)


# DIFFER_PROGRAMS: how many.
@pytest.mark.parametrize("first", [1, 11, 21])
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_random_programs_do_the_same(lab, first):
    count = int(os.environ.get("DIFFER_PROGRAMS", "30")) // 3
    done = lab.server(f"cd {FOLDER}; ./differ.sh /usr/local/lib/libfsocket.so "
                      f"{1 + (first - 1) // 10 * count} {count}", check=False,
                      limit=60 + 10 * count)
    assert done.returncode == 0, done.stdout


# These compare the library with the kernel that it runs on.
@each_of("test_epoll_walks")
def test_epoll_at_random(lab, program, name):
    run_one(lab, "LD_PRELOAD=/usr/local/lib/libfsocket.so", program, name)


@each_of("test_epoll", "test_epoll_signals")
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_epoll(lab, program, name):
    run_one(lab, "LD_PRELOAD=/usr/local/lib/libfsocket.so", program, name)


@pytest.mark.parametrize("name", names("test_ntuple"))
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_ntuple(lab, name):
    run_one(lab, f"NIC_KO={FOLDER}/ntuple_nic-$(uname -r).ko", "test_ntuple", name,
            "loading out-of-tree module|module verification failed")


@pytest.mark.parametrize("name", names("test_copies"))
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_copies(lab, name):
    run_one(lab, f"COPIES_KO={FOLDER}/copied_ops-$(uname -r).ko "
            "FASTSOCKET_KO=/lib/modules/$(uname -r)/updates/fastsocket.ko", "test_copies", name,
            "loading out-of-tree module|module verification failed")


@pytest.fixture(scope="module")
def failing_module(lab):
    """Replaces the module by one whose calls for memory fail when a test says so."""
    running = lab.server("uname -r").stdout.strip()
    module = f"{FOLDER}/failing-{running}.ko"
    assert lab.server(f"test -e {module}", check=False).returncode == 0, (
        f"install linux-headers-{running}; or make clean, if that is no longer Debian's kernel")
    lab.unload_module()
    yield module
    lab.server("rmmod fastsocket 2> /dev/null; modprobe fastsocket")


@pytest.mark.parametrize("name", names("test_memory"))
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_memory(lab, failing_module, name):
    # The module logs why it does not load.
    run_one(lab, f"FASTSOCKET_FAIL_KO={failing_module}", "test_memory", name,
            "fastsocket: (not loaded|.* cannot be resolved)")
