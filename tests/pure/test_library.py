# SPDX-License-Identifier: GPL-2.0-only
"""The library on a host without the module: it does no harm, and prints one message."""
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "library/libfsocket.so"
# The library's sources, from its Makefile.
SOURCES = re.search(r"^LIBRARY = ((?:.*\\\n)*.*)$", (ROOT / "library/Makefile").read_text(),
                    re.M)[1].replace("\\\n", " ").split()
MISSING = ("libfsocket: /dev/fastsocket: No such file or directory: running without Fastsocket "
           "(load it with: modprobe fastsocket, or do without it: FSOCKET_BACKEND=kernel)\n")
FATAL = ("libfsocket: /dev/fastsocket: No such file or directory: the program needs the module "
         "and ends here (load it with: modprobe fastsocket, or do without it: "
         "FSOCKET_BACKEND=kernel)\n")

# Test programs of the guest that work with a file in place of the module.
EPOLL = ("test_epoll", "test_epoll_walks", "test_epoll_signals")

LISTEN = """
import select, socket
for _ in range(3):
    s = socket.create_server(("127.0.0.1", 0))
    e = select.epoll()
    e.register(s, select.EPOLLIN)
    c = socket.create_connection(s.getsockname())
    assert e.poll(5) == [(s.fileno(), select.EPOLLIN)]
    conn, _ = s.accept()
    e.modify(s, 0)
    e.unregister(s)
    conn.sendall(b"x")
    assert c.recv(1) == b"x"
    s.close()
"""


@pytest.fixture(scope="module", autouse=True)
def build():
    assert not os.path.exists("/dev/fastsocket"), "these tests are for a host without the module"
    subprocess.run(["make", "-s", "-C", ROOT / "library"], check=True)


def run(argv, **environment):
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False,
                          env={**os.environ, "LD_PRELOAD": str(LIBRARY), **environment})


def test_a_listening_program_is_told_once_and_runs():
    done = run([sys.executable, "-c", LISTEN])
    assert (done.returncode, done.stderr) == (0, MISSING)


@pytest.mark.parametrize("value, said", [
    ("kernle", "libfsocket: FSOCKET_BACKEND=kernle: no such backend: give auto, module or kernel "
               "(the module is used now)\n"), ("module", ""), ("", "")])
def test_backend_that_is_none(value, said):
    """Once, whatever children the program starts."""
    code = LISTEN + "import os\nif not os.fork():\n" + textwrap.indent(LISTEN, "    ")
    done = run([sys.executable, "-c", code + "else: os.wait()\n"], FSOCKET_BACKEND=value)
    assert (done.returncode, done.stderr) == (0, said + MISSING)


def test_required():
    done = run([sys.executable, "-c", LISTEN], FSOCKET_REQUIRED="1")
    assert (done.returncode, done.stderr) == (1, FATAL)


def test_required_0_is_not_required():
    done = run([sys.executable, "-c", LISTEN], FSOCKET_REQUIRED="0")
    assert (done.returncode, done.stderr) == (0, MISSING)


def test_a_program_that_does_not_listen_sees_nothing():
    done = run(["sh", "-c", "exec cat < /dev/null"], FSOCKET_REQUIRED="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("program", [
    ["true"], [sys.executable, "-c", "import select; select.epoll()"]], ids=["true", "epoll"])
def test_no_system_call_is_added_to_programs_that_do_not_listen(tmp_path, program):
    def calls(*environment):
        trace = tmp_path / "trace"
        subprocess.run(["strace", "-f", "-o", trace,
                        "-e", "trace=ioctl,epoll_ctl,listen,open,openat", *environment, *program],
                       check=True)
        # Leave out loading the library itself; arguments hold addresses, which vary.
        return [line.split(" ", 1)[1].split("(")[0] for line in trace.read_text().splitlines()
                if "libfsocket" not in line and "exited" not in line]

    assert calls("-E", f"LD_PRELOAD={LIBRARY}") == calls()


@pytest.mark.parametrize("change", ["", "e.modify(s, 0)", "another()"])
def test_no_system_call_is_added_to_waits_with_nothing_to_settle(tmp_path, change):
    """In the kernel backend: a lone worker, one that does not wait for the listener, and threads
    that wait in one instance."""
    code = textwrap.dedent(f"""
        import os, select, socket, threading
        s = socket.create_server(("127.0.0.1", 0))
        s.setblocking(False)
        e = select.epoll()
        e.register(s, select.EPOLLIN)
        e.poll(0)
        def another():
            thread = threading.Thread(target=e.poll, args=[0])
            thread.start()
            thread.join()
            # It makes calls until the kernel has ended it.
            while len(os.listdir("/proc/self/task")) > 1:
                pass
        {change}
        for _ in range(100):
            e.poll(0)
    """)
    trace = tmp_path / "trace"
    subprocess.run(["strace", "-f", "-o", trace, "-E", f"LD_PRELOAD={LIBRARY}",
                    "-E", "FSOCKET_BACKEND=kernel", sys.executable, "-c", code], check=True)
    calls = [line.split()[1].split("(")[0] for line in trace.read_text().splitlines()]
    waits = [i for i, call in enumerate(calls) if call == "epoll_wait"]
    assert len(waits) >= 100
    assert calls[waits[-50]:waits[-1] + 1] == ["epoll_wait"] * 50


def test_errors_of_listen_are_the_systems():
    code = """
        import socket
        for bad in socket.socket(type=socket.SOCK_DGRAM), socket.socketpair()[0]:
            try:
                bad.listen()
                raise SystemExit("listened")
            except OSError as error:
                print(error.errno)
    """
    plain = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], text=True,
                           capture_output=True, check=True)
    ours = run([sys.executable, "-c", textwrap.dedent(code)], FSOCKET_REQUIRED="1")
    assert (ours.returncode, ours.stdout, ours.stderr) == (0, plain.stdout, "")


def test_valgrind(tmp_path):
    source = tmp_path / "listen.c"
    source.write_text(r"""
        #include <netinet/in.h>
        #include <sys/epoll.h>
        #include <unistd.h>
        int main(void)
        {
            for (int i = 0; i < 3; i++) {
                int fd = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
                struct epoll_event event = { .events = EPOLLIN };

                if (listen(fd, 5) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) ||
                    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, 0) || close(fd) || close(epoll))
                    return 1;
            }
            return 0;
        }
    """)
    program = tmp_path / "listen"
    subprocess.run(["gcc", "-o", program, source], check=True)
    done = run(["valgrind", "-q", "--error-exitcode=99", "--leak-check=full", program])
    assert (done.returncode, done.stderr) == (0, MISSING)


def test_sanitizers(tmp_path):
    """The library's own code under ASan and UBSan, linked in instead of preloaded."""
    main = tmp_path / "main.c"
    main.write_text(r"""
        #include <errno.h>
        #include <limits.h>
        #include <sys/epoll.h>
        #include <sys/socket.h>
        #include <unistd.h>
        int main(void)
        {
            struct epoll_event event = { .events = EPOLLIN };
            int fd = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);

            for (int bad = -2; bad < 0; bad++)
                if (!listen(bad, 1) || !close(bad) || !epoll_ctl(epoll, EPOLL_CTL_ADD, bad, &event))
                    return 1;
            if (!close(INT_MAX) || !close(INT_MIN) || errno != EBADF)
                return 2;
            return listen(fd, 1) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) || close(fd);
        }
    """)
    program = tmp_path / "main"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-fsanitize=address,undefined",
                    "-fno-sanitize-recover=all", "-o", program, main,
                    *(ROOT / "library" / name for name in SOURCES)],
                   check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, MISSING)


# Its workers are on two cores.
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the kernel backend needs two cores")
@pytest.mark.parametrize("sanitizers", ["", "address,undefined"])
@pytest.mark.parametrize("name", ["test_kernel_exec", "test_kernel_handlers"])
def test_kernel_backend(tmp_path, name, sanitizers):
    """The guest's test programs that need no module and no root, here."""
    library, program = tmp_path / "libfsocket.so", tmp_path / name
    check = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"] if sanitizers else []
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-g", "-fPIC", "-shared", *check, "-o", library,
                    *(ROOT / "library" / name for name in SOURCES)], check=True)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", program,
                    ROOT / f"tests/guest/{name}.c", "-lcmocka"], check=True)
    preloaded = [subprocess.check_output(["gcc", f"-print-file-name=lib{which}.so"],
                                         text=True).strip()
                 for which in ("asan", "ubsan") if sanitizers]
    done = run([program], LD_PRELOAD=" ".join([*preloaded, str(library)]),
               FSOCKET_BACKEND="kernel", ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stdout + done.stderr


def test_functions_that_the_c_library_lacks_stay_absent():
    """A program that calls dlsym() finds a function of the library only if the C library has it."""
    def defined(library):
        lines = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True,
                               text=True, check=True).stdout.splitlines()
        return {line.split()[-1].split("@")[0] for line in lines if line.split()[-2] in "TWi"}

    assert defined(LIBRARY) - defined("/lib/x86_64-linux-gnu/libc.so.6") == set()


@pytest.fixture(scope="module")
def fast_epoll(tmp_path_factory):
    """
    Runs the guest's test program here, with a file in place of the device and of the module's
    page of features.
    """
    folder = tmp_path_factory.mktemp("fast_epoll")
    features = folder / "features"
    features.write_bytes(bytes(4096))
    shutil.copytree(ROOT / "library", folder / "library", ignore=shutil.ignore_patterns("*.so"))
    (folder / "kmod").mkdir()
    abi = (ROOT / "kmod/fastsocket_abi.h").read_text()
    (folder / "kmod/fastsocket_abi.h").write_text(
        abi.replace('"/dev/fastsocket"', f'"{features}"'))
    subprocess.run(["make", "-s", "-C", folder / "library", "libfsocket.so"], check=True)
    for program in EPOLL:
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O1", "-pthread", "-o", folder / program,
                        ROOT / f"tests/guest/{program}.c", "-lcmocka"], check=True)

    def run_it(program, *names, **environment):
        return subprocess.run(
            [folder / program, *names], capture_output=True, text=True, timeout=100, check=False,
            env={**os.environ, "LD_PRELOAD": str(folder / "library/libfsocket.so"),
                 "FAKE_FEATURES": str(features), **environment})
    return run_it


@pytest.mark.parametrize("program", EPOLL)
def test_fast_epoll_is_the_same_call_by_call(fast_epoll, program):
    done = fast_epoll(program, STEPS="10000")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_test_of_fast_epoll_sees_that_nothing_is_spared(fast_epoll):
    assert fast_epoll("test_epoll", "add_is_spared", LD_PRELOAD="").returncode != 0


def test_a_program_that_does_not_listen_starts_as_fast():
    """Loading the library costs it less than 300,000 instructions of its own.

    They are counted: its time depends on what else the machine does."""
    def instructions(preload):
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "true"],
            env={**os.environ, "LD_PRELOAD": preload}, capture_output=True, text=True, check=True)
        return int(re.search(r"Collected : (\d+)", done.stderr)[1])

    plain = instructions("")
    assert plain > 10000
    assert instructions(str(LIBRARY)) - plain < 300000
