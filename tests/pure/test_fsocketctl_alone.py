# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl on a host without the module: wrong arguments, JSON, run, doctor."""
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parents[2] / "library"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MISSING = "the module is not loaded: load it with: modprobe fastsocket"
# The messages of subcommands that find no servers of the kernel backend.
NOBODY = (f"{MISSING}; and no server{' of this user' if os.geteuid() else ''} "
          "uses the kernel backend")
SUBCOMMANDS = ["status", "set", "watch", "listeners", "doctor", "run"]


@pytest.fixture(scope="module")
def ctl(tmp_path_factory):
    """The tool with sanitizers, beside the library as it is when installed."""
    assert not os.path.exists("/dev/fastsocket"), "these tests are for a host without the module"
    subprocess.run(["make", "-s", "-C", LIBRARY], check=True)
    prefix = tmp_path_factory.mktemp("prefix")
    (prefix / "bin").mkdir()
    (prefix / "lib").mkdir()
    shutil.copy(LIBRARY / "libfsocket.so", prefix / "lib")
    sources = re.search(r"^SOURCES = (.*)", (LIBRARY / "Makefile").read_text(), re.M)[1].split()
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-g", *SANITIZE, "-o", prefix / "bin/fsocketctl",
                    *(LIBRARY / source for source in sources)], check=True)
    return prefix / "bin/fsocketctl"


def run(ctl, *arguments, **environment):
    # It ends soon, so memory that it still has then is no leak.
    return subprocess.run([ctl, *arguments], capture_output=True, text=True, timeout=60,
                          check=False, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0",
                                            **environment})


WRONG = [
    ([], "a subcommand is missing: give status, set, watch, listeners, doctor or run"),
    (["statu"], "statu: no such subcommand: give status, set, watch, listeners, doctor or run"),
    (["--json"], "--json: no such subcommand: give status, set, watch, listeners, doctor or run"),
    (["status", "x"], "x: status takes no argument"),
    (["status", "-x"], "-x: no such option: there is only --json"),
    (["set"], "set needs NAME=VALUE, one or several"),
    (["set", "a"], "a: not NAME=VALUE with the name of a parameter"),
    (["set", "=1"], "=1: not NAME=VALUE with the name of a parameter"),
    (["set", ""], ": not NAME=VALUE with the name of a parameter"),
    (["set", "a/b=1"], "a/b=1: not NAME=VALUE with the name of a parameter"),
    (["set", "../version=1"], "../version=1: not NAME=VALUE with the name of a parameter"),
    (["set", "a=1", "b"], "b: not NAME=VALUE with the name of a parameter"),
    (["set", "a=" + "0" * 4096 + "1"], "a: the value has more than 255 characters"),
    *((["watch", bad], f"{bad}: not a number of seconds: give a whole one from 1 to 86400")
      for bad in ("0", "x", "", "1.5", "1s", "+1", " 1", "86401", "9" * 30)),
    (["watch", "-1"], "-1: no such option: there is only --json"),
    (["watch", "1", "2"], "2: watch, but for SECONDS, takes no argument"),
    (["listeners", "80"], "80: listeners takes no argument"),
    (["doctor", "eth0"], "eth0: doctor takes no argument"),
    (["run"], "run needs the program to run"),
    (["run", "-x"], "-x: no such option: there is only --json, "
     "and --backend=auto, module or kernel"),
    *((["run", f"--backend={bad}", "true"],
       f"--backend={bad}: no such backend: give auto, module or kernel")
      for bad in ("", "x", "Kernel", "kernel ")),
]


@pytest.mark.parametrize("arguments, sentence", WRONG)
def test_wrong_arguments(ctl, arguments, sentence):
    done = run(ctl, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"fsocketctl: {sentence}\n")


@pytest.mark.parametrize("arguments, sentence", [
    ([arguments[0], "--json", *arguments[1:]], sentence) for arguments, sentence in WRONG
    if arguments and arguments[0] in SUBCOMMANDS])
def test_wrong_arguments_in_json(ctl, arguments, sentence):
    done = run(ctl, *arguments)
    where = done.stderr if arguments[0] == "run" else done.stdout
    assert (done.returncode, json.loads(where)) == (2, {"error": sentence})


def test_json_may_come_last(ctl):
    done = run(ctl, "watch", "5", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, {"error": NOBODY})


@pytest.mark.parametrize("arguments, error", [
    (["status"], NOBODY), (["set", "a=1"], MISSING), (["watch"], NOBODY), (["watch", "7"], NOBODY),
    (["listeners"], NOBODY)])
def test_without_the_module(ctl, arguments, error):
    done = run(ctl, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"fsocketctl: {error}\n")
    done = run(ctl, *arguments, "--json")
    assert (done.returncode, done.stderr) == (1, f"fsocketctl: {error}\n")
    assert json.loads(done.stdout) == {"error": error}


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(ctl, option):
    done = run(ctl, option)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^  (\w+) ", done.stdout, re.M) == SUBCOMMANDS


def test_nobody_reads(ctl):
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([ctl, "doctor"], stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
    assert (done.returncode, done.stderr) == \
        (1, "fsocketctl: standard output: No space left on device\n")


def test_doctor_misses_the_module(ctl):
    done = run(ctl, "doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, set(report)) == (1, "", {"items", "findings"})
    for entry in report["items"]:
        assert set(entry) == {"item", "state", "text", "remedy"}
        assert entry["state"] in ("ok", "finding", "skipped")
        assert (entry["remedy"] is not None) == (entry["state"] == "finding")
    assert report["findings"] == sum(e["state"] == "finding" for e in report["items"])
    assert report["items"][0] == {"item": "module", "state": "finding",
                                  "text": "the module is not loaded",
                                  "remedy": "modprobe fastsocket"}
    text = run(ctl, "doctor")
    assert text.returncode == 1
    rows = re.findall(r"^(ok|finding|skipped) +(\S+)", text.stdout, re.M)
    assert rows == [(entry["state"], entry["item"]) for entry in report["items"]]


def test_manual_page_is_complete(ctl):
    page = (LIBRARY / "fsocketctl.1").read_text()
    items = [entry["item"] for entry in json.loads(run(ctl, "doctor", "--json").stdout)["items"]]
    part = page[page.index(".B doctor\nLooks"):page.index(".RE")]
    assert re.findall(r"^\.TP\n\.B (\S+)", part, re.M) == list(dict.fromkeys(items))
    for name in SUBCOMMANDS:
        assert re.search(rf"^\.B fsocketctl {name}$", page, re.M), name
        assert re.search(rf"^\.TP\n\.BR? {name}\b", page, re.M), name


@pytest.mark.parametrize("config, state", [
    ("events { accept_mutex on; }", "finding"),
    ("events {\n\taccept_mutex_delay 1s; accept_mutex\n on; }", "finding"),
    ("events { accept_mutex off; }  # accept_mutex on;", "ok"),
    ("", "ok"),
    ("/dev/zero", "skipped"),
    ("pipe", "skipped"),
    ("/nonexistent", "skipped"),
])
def test_doctor_reads_the_configuration_of_nginx(ctl, tmp_path, config, state):
    """A process with the name nginx may name any file."""
    path = tmp_path / "nginx.conf"
    if config == "pipe":
        os.mkfifo(path)
    elif config.startswith("/"):
        path = config
    else:
        path.write_text(config)
    with subprocess.Popen(["bash", "-c", f"exec -a 'nginx: master process nginx -c {path}' "
                           "sleep 60"]) as fake:
        try:
            while b"nginx" not in Path(f"/proc/{fake.pid}/cmdline").read_bytes()[:5]:
                pass
            report = json.loads(run(ctl, "doctor", "--json").stdout)
        finally:
            fake.kill()
    found = [entry for entry in report["items"] if entry["item"] == "accept-mutex"]
    assert [entry["state"] for entry in found] == [state]
    assert state == "ok" or found[0]["text"].startswith(f"nginx, process {fake.pid}")


NO_MODULE = f"no effect: {MISSING}, or do without: fsocketctl run --backend=kernel"


def test_run_is_the_program(ctl):
    code = "import os, sys; print(os.getpid(), sys.argv[1:], sys.stdin.read()); sys.exit(3)"
    started = subprocess.Popen([ctl, "run", sys.executable, "-c", code, "--json", "-h", "a b"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    out, err = started.communicate("input", timeout=60)
    assert out == f"{started.pid} ['--json', '-h', 'a b'] input\n"
    assert (started.returncode, err) == (3, f"fsocketctl: {NO_MODULE}\n")


def test_run_leaves_signals_to_the_program(ctl):
    program = "trap 'exit 9' TERM; echo; sleep 60 & wait"
    started = subprocess.Popen([ctl, "run", "sh", "-c", program], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    started.stdout.readline()
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 9
    started = subprocess.Popen([ctl, "run", "sleep", "60"], stderr=subprocess.DEVNULL)
    started.send_signal(signal.SIGKILL)
    assert started.wait(20) == -signal.SIGKILL


def test_run_preloads(ctl):
    library = str(ctl.parent.parent / "lib/libfsocket.so")
    done = run(ctl, "run", "--json", "sh", "-c", "echo $LD_PRELOAD; cat /proc/self/maps")
    assert done.stdout.startswith(library + "\n") and done.stdout.count(library) > 1
    assert json.loads(done.stderr) == {"effect": False, "listeners": 0, "cores": 0,
                                       "text": NO_MODULE}
    # Libraries that are preloaded already stay; sanitizers have to be the first.
    plain = LIBRARY / "fsocketctl"
    done = run(plain, "run", "sh", "-c", "echo $LD_PRELOAD", LD_PRELOAD="libm.so.6")
    assert done.stdout == f"libm.so.6:{LIBRARY}/libfsocket.so\n"


def test_run_what_cannot_be_run(ctl, tmp_path):
    done = run(ctl, "run", "/nonexistent")
    assert done.returncode == 127
    assert done.stderr.endswith("\nfsocketctl: /nonexistent: No such file or directory\n")
    done = run(ctl, "run", "--json", str(tmp_path))
    assert done.returncode == 126
    assert json.loads(done.stderr.splitlines()[-1]) == {"error": f"{tmp_path}: Permission denied"}
    alone = shutil.copy(ctl, tmp_path)
    done = run(alone, "run", "true")
    assert (done.returncode, done.stderr) == (
        125, f"fsocketctl: libfsocket.so is neither in {tmp_path} nor in {tmp_path}/../lib: "
        "install it with: make -C library install, or the package libfsocket\n")
    blank = tmp_path / "a b"
    blank.mkdir()
    shutil.copy(ctl, blank)
    shutil.copy(LIBRARY / "libfsocket.so", blank)
    done = run(blank / "fsocketctl", "run", "true")
    assert (done.returncode, done.stderr) == (
        125, "fsocketctl: the path of libfsocket.so has a blank or a colon, "
        "which LD_PRELOAD cannot hold\n")


# Two workers, each pinned by the library, wait for a listener.
SERVER = """
import os, select, socket
s = socket.create_server(("127.0.0.1", 0))
s.setblocking(False)
print(s.getsockname()[1], flush=True)
os.fork()
e = select.epoll()
e.register(s, select.EPOLLIN)
while True:
    for _ in e.poll():
        try:
            s.accept()[0].close()
        except BlockingIOError:
            pass
"""


@contextlib.contextmanager
def serving(*command, **environment):
    """A server in a process group; its process ID, and the port that it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True,
                          env={**os.environ, **environment}) as server:
        try:
            yield server.pid, int(server.stdout.readline())
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def connect(port):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)) as one:
            assert one.recv(1) == b""


needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU needs no group")


@needs_two
def test_kernel_backend(ctl):
    """The library's servers are shown without the module; a program's own group is not."""
    library = str(ctl.parent.parent / "lib/libfsocket.so")
    own = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    beside = socket.create_server(own.getsockname(), reuse_port=True)
    with own, beside, serving(sys.executable, "-c", SERVER, LD_PRELOAD=library,
                              FSOCKET_BACKEND="kernel") as (pid, port):
        deadline = time.monotonic() + 30
        while True:
            connect(port)
            found = json.loads(run(ctl, "listeners", "--json").stdout).get("listeners")
            if found and sum(worker["attached"] for worker in found[0]["workers"]) == 2:
                break
            assert time.monotonic() < deadline, found
        assert [(one["backend"], one["address"], one["port"], one["family"], one["queued"])
                for one in found] == [("kernel", "127.0.0.1", port, 4, 0)]
        first, second = found[0]["workers"]
        assert first["cpu"] < second["cpu"]
        for worker in (first, second):
            assert os.sched_getaffinity(worker["tid"]) == {worker["cpu"]} and worker["pinned"]
            assert os.getpgid(worker["pid"]) == pid and worker["limit"] == found[0]["limit"]
        text = run(ctl, "listeners").stdout
        assert f"127.0.0.1:{port} (socket {found[0]['inode']}, kernel backend)" in text
        assert len(re.findall(r" attached +\d+  \S+$", text, re.M)) == 2
        done = run(ctl, "status", "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {
            "version": None, "parameters": {}, "counters": {}, "servers": [
                {"backend": "kernel", "address": "127.0.0.1", "port": port, "family": 4,
                 "inode": found[0]["inode"], "workers": 2}]})
        items = json.loads(run(ctl, "doctor", "--json").stdout)["items"]
        assert (items[0]["item"], items[0]["state"]) == ("module", "ok")


@needs_two
@pytest.mark.parametrize("workers, effect", [(1, False), (2, True)])
def test_run_with_the_kernel_backend(ctl, workers, effect):
    server = SERVER if workers == 2 else SERVER.replace("os.fork()", "")
    with subprocess.Popen([ctl, "run", "--json", "--backend=kernel", sys.executable, "-c", server],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}) as started:
        try:
            port = int(started.stdout.readline())
            while not select.select([started.stderr], [], [], 0.1)[0]:
                connect(port)
            verdict = json.loads(started.stderr.readline())
        finally:
            os.killpg(started.pid, signal.SIGKILL)
    assert verdict["effect"] == effect
    assert verdict["text"].startswith(
        "Fastsocket is in effect by the kernel backend: " if effect else
        "no effect: one worker waits for connections, and the kernel backend begins with")


# It has three workers, and no function by which it could accept.
NO_ACCEPT = r"""
#include <netinet/in.h>
#include <sys/epoll.h>
#include <unistd.h>

int main(void)
{
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct epoll_event event = { .events = EPOLLIN };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll;

    if (bind(fd, (void *)&here, sizeof(here)) || listen(fd, 1))
        return 1;
    if (fork())
        fork();
    epoll = epoll_create1(0);
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event))
        return 1;
    for (;;)
        epoll_wait(epoll, &event, 1, -1);
}
"""


@needs_two
def test_run_counts_workers_without_sockets(ctl, tmp_path):
    source, program = tmp_path / "server.c", tmp_path / "server"
    source.write_text(NO_ACCEPT)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-o", program, source], check=True)
    with subprocess.Popen([ctl, "run", "--json", "--backend=kernel", program],
                          stderr=subprocess.PIPE, text=True, start_new_session=True,
                          env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}) as started:
        try:
            verdict = json.loads(started.stderr.readline())
        finally:
            os.killpg(started.pid, signal.SIGKILL)
    assert not verdict["effect"] and ": 3 workers wait for a listener, and none" in verdict["text"]


LIAR = r"""
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "route.h"

int main(int argc, char **argv)
{
    struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    struct route *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                           -1, 0);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof(here);
    struct stat s;

    srandom(argc > 1 ? atoi(argv[1]) : 0);
    for (size_t i = 0; i < sizeof(*r); i++)
        ((unsigned char *)r)[i] = random();
    if (bind(fd, (void *)&here, sizeof(here)) || listen(fd, 1) || fstat(fd, &s) ||
        getsockname(fd, (void *)&here, &length))
        return 1;
    r->magic = ROUTE_MAGIC;
    r->inode = s.st_ino;
    for (int m = 0; m < GROUP_MEMBERS; m += 2)
        r->sockets[m] = s.st_ino;
    if (random() % 4) {
        r->count = random() % (GROUP_MEMBERS + 1);
        r->end = random() % (GROUP_CLAIMS + 1);
        r->late = 1 + random() % 10000;
    }
    for (int i = 0; i < GROUP_CLAIMS; i += 2) {
        r->claims[i].pid = r->claims[i].tid = getpid();
        r->claims[i].member = random() % (GROUP_MEMBERS + 2) - 1;
        r->claims[i].cpu = random() % 2000 - 1;
    }
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    return pause();
}
"""


def test_memory_of_a_liar(ctl, tmp_path):
    """Any process may have memory that looks like the library's, with anything in it."""
    source, program = tmp_path / "liar.c", tmp_path / "liar"
    source.write_text(LIAR)
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-I", LIBRARY, "-o", program, source], check=True)
    seen = 0
    for seed in range(8):
        with serving(program, str(seed)) as (pid, port):
            for arguments in (["listeners"], ["listeners", "--json"], ["doctor"])[:2 + (seed < 3)]:
                done = run(ctl, *arguments)
                assert done.returncode in (0, 1)
                assert not re.search("anitizer|runtime error", done.stderr), done
                if "--json" not in arguments:
                    continue
                for one in json.loads(done.stdout).get("listeners", []):
                    seen += 1
                    assert one["port"] == port
                    assert {worker["pid"] for worker in one["workers"]} <= {None, pid}
    assert seen


def test_json_of_any_bytes(tmp_path):
    """Names of processes are bytes: valid UTF-8 stays, and other bytes are replaced."""
    main = tmp_path / "main.c"
    main.write_text(r"""
        #include "ctl.h"
        int main(int argc, char **argv)
        {
            struct json j = { .out = stdout };

            json_open(&j, NULL, '[');
            for (int i = 1; i < argc; i++)
                json_string(&j, NULL, argv[i]);
            json_string(&j, NULL, NULL);
            json_integer(&j, NULL, -9223372036854775807LL);
            json_decimal(&j, NULL, 0.5);
            json_bool(&j, NULL, true);
            json_open(&j, NULL, '{');
            json_close(&j, '}', false);
            json_close(&j, ']', true);
            return 0;
        }
    """)
    program = tmp_path / "main"
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-I", LIBRARY, *SANITIZE, "-o", program, main,
                    LIBRARY / "ctl_json.c"], check=True)
    strings = [b"", b'"\\\n\x01\x7f', "héé 新浪 😀".encode(), b"\xff", b"\xc3", b"\xe4\xb8",
               b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98",
               b"a\xe4\xb8b", b"\xe0\x80\x80"]
    strings += [bytes([first]) + b"\x80\x80\x80" for first in range(0x80, 0x100)]
    done = subprocess.run([program, *strings], capture_output=True, check=True)
    *texts, null, low, half, true, empty = json.loads(done.stdout.decode("utf-8"))
    assert (null, low, half, true, empty) == (None, -9223372036854775807, 0.5, True, {})
    assert len(texts) == len(strings)
    for text, string in zip(texts, strings):
        assert text.replace("\ufffd", "") == string.decode("utf-8", "ignore")
        assert ("\ufffd" in text) == ("\ufffd" in string.decode("utf-8", "replace"))
