# SPDX-License-Identifier: GPL-2.0-only
"""The demo server's addresses, workers, signals and options, natively on loopback."""
import contextlib
import os
import re
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from demo import demo_built  # noqa: F401 a fixture
from demo import (
    ab, assert_no_busy_loop, assert_ok, assert_totals, CORES, DEADLINE, DEMO, free_port, GET,
    GET_CLOSE, listening, MODES, read_all, receive_answers, reset, server, totals, wait_for
)


# Listening -------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_several_addresses_and_ipv6(mode):
    ports = [free_port() for _ in range(3)]
    addresses = [f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", f"0.0.0.0:{ports[2]}",
                 f"[::]:{ports[2]}"]
    args = [x for address in addresses for x in ("-a", address)]
    with server("-m", mode, "-w", CORES, *args) as s:
        assert f" on {','.join(addresses)} mode {mode}\n" in s.line("ready:")
        for host, port in (("127.0.0.1", ports[0]), ("::1", ports[1]), ("127.0.0.1", ports[2]),
                           ("::1", ports[2])):
            for _ in range(5):
                with socket.create_connection((host, port), DEADLINE) as client:
                    client.sendall(GET)
                    assert_ok(read_all(client))
        ab(f"http://[::1]:{ports[1]}/", 200, 10)
        assert_totals(s.stop(), 220, extra=10)


@pytest.mark.parametrize("first_core", range(CORES))
def test_workers_are_pinned(first_core):
    with server("-c", first_core) as s:
        pinned = {int(re.search(r"Cpus_allowed_list:\t(.*)",
                                Path(f"/proc/{pid}/status").read_text())[1])
                  for pid in s.workers()}
        assert pinned == set(range(first_core, CORES))
        s.stop()


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
@pytest.mark.parametrize("cores", ["1,0", "1"])
def test_workers_run_on_the_cores_of_a_list(cores):
    with server("-c", cores, "-w", len(cores.split(","))) as s:
        pinned = [re.search(r"Cpus_allowed_list:\t(.*)",
                            Path(f"/proc/{pid}/status").read_text())[1] for pid in s.workers()]
        assert pinned == cores.split(",")
        s.stop()


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
@pytest.mark.parametrize("cores", [*map(str, range(min(CORES, 4))), "1,0"])
def test_cbpf_picks_the_worker_of_the_cpu(tmp_path, cores):
    """On loopback a connection arrives on the CPU of the client."""
    log = tmp_path / "log"
    first_core = int(cores[0])
    workers = CORES - first_core
    affinity = os.sched_getaffinity(0)
    with server("-m", "cbpf", "-c", cores, "-d", "-o", log) as s:
        expected = []
        try:
            for cpu in sorted(affinity) * 20:
                os.sched_setaffinity(0, {cpu})
                assert_ok(s.exchange(GET))
                expected.append(1 - cpu if cores == "1,0" else (cpu - first_core) % workers)
        finally:
            os.sched_setaffinity(0, affinity)
        s.stop()
    accepted = re.findall(r"^worker (\d+): fd \d+: accepted$", log.read_text(), re.M)
    assert list(map(int, accepted)) == expected


def test_three_thousand_idle_connections():
    with server("-w", 1, "-k") as s:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(
            resource.RLIMIT_NOFILE)[1],) * 2)
        clients = [s.connect() for _ in range(3000)]
        ab(s.url, 200, 10)
        for client in clients:
            client.sendall(GET)
        for client in clients:
            assert_ok(receive_answers(client, 1))
            client.close()
        assert_totals(s.stop(), 3200, extra=10)


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_out_of_descriptors(mode):
    """No busy loop, no lost connection, and service goes on when a connection closes."""
    with server("-w", 1, "-m", mode, nofile=40) as s:
        clients = [s.connect() for _ in range(60)]
        worker = s.workers()[0]
        wait_for(lambda: s.err, "the message about descriptors")
        assert_no_busy_loop(worker)
        for client in clients:
            client.sendall(GET)
        for client in clients:
            assert_ok(read_all(client))
            client.close()
        ab(s.url, 200, 5)
        total = s.stop(stderr=r"server-asan: worker 0: cannot accept: Too many open files: .*\n")
        assert total["requests"] == total["responses"] == 260


# Stopping and dying ----------------------------------------------------------------------

@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_stop_finishes_what_has_begun(sig):
    """Idle connections do not delay it; a half-sent request is still answered.

    It waits for a second: on a busy machine the rest may come later than that. Then once more.
    """
    for _ in range(9):
        if stop_within_a_request(sig):
            return
        print("this test was late with the rest of the request")
    pytest.fail("this test was late each time")


def stop_within_a_request(sig):
    """Returns whether the rest of the request was sent in time."""
    with server("-w", 1, "-k") as s, s.connect() as idle, s.connect() as busy:
        busy.sendall(b"GET / HTTP/1.1\r\n")
        wait_for(lambda: len(os.listdir(f"/proc/{s.workers()[0]}/fd")) >= 7, "both accepted")
        time.sleep(0.1)
        began = time.monotonic()
        s.process.send_signal(sig)
        wait_for(lambda: not listening(s.port), "the listener's end")
        with pytest.raises(ConnectionRefusedError):
            s.connect()
        with contextlib.suppress(OSError):
            busy.sendall(b"\r\n")
        if time.monotonic() - began > 0.8:
            return False
        answer = read_all(busy)
        assert_ok(answer)
        assert b"Connection: close" in answer
        assert idle.recv(1) == b""
        assert s.wait() == 0
        assert totals(s.out[-1]) == {"accepted": 2, "requests": 1, "responses": 1, "errors": 0}
        assert s.err == []
    return True


def test_stop_is_immediate_when_idle_and_bounded_when_not():
    def seconds(started):
        with server("-w", 1, "-k") as s, s.connect() as client:
            client.sendall(started)
            # Then it has been read, and not only accepted.
            wait_for(lambda: len(os.listdir(f"/proc/{s.workers()[0]}/fd")) >= 6, "accepted")
            time.sleep(0.2)
            start = time.monotonic()
            s.stop()
            return time.monotonic() - start

    # Take the fastest of several: other work on the machine only makes them slower.
    assert min(seconds(b"") for _ in range(3)) < 0.8
    assert 0.9 <= min(seconds(b"GET") for _ in range(3)) < 3


def test_stop_of_the_whole_process_group():
    """Like Ctrl-C and systemd: workers also get the signal from outside."""
    with server() as s:
        for worker in s.workers():
            os.kill(worker, signal.SIGSTOP)
        s.process.send_signal(signal.SIGSTOP)
        for pid in [s.process.pid, *s.workers()]:
            os.kill(pid, signal.SIGINT)
        for pid in [*s.workers(), s.process.pid]:
            os.kill(pid, signal.SIGCONT)
        assert s.wait() == 0 and s.err == []


@pytest.mark.skipif(CORES < 2, reason="needs two workers")
@pytest.mark.parametrize("mode", MODES)
def test_a_killed_worker_leaves_the_others_serving(mode):
    with server("-m", mode, "-w", 2) as s:
        victim = s.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: s.err, "the report")
        ab(s.url, 300, 10)
        s.stop(stderr=rf"server-asan: worker 0 \(process {victim}, core 0\) was killed by "
                      r"signal 9 \(Killed\): 1 of 2 workers left\n")


def test_all_workers_killed():
    with server() as s:
        for worker in s.workers():
            os.kill(worker, signal.SIGKILL)
        assert s.wait() == 1
        assert len(s.err) == CORES and f"0 of {CORES} workers left" in s.err[-1]
        assert totals(s.out[-1])["accepted"] == 0


def test_killed_parent_takes_its_workers_along():
    with server() as s:
        workers = s.workers()
        s.process.kill()
        try:
            s.wait()
            wait_for(lambda: not any(os.path.exists(f"/proc/{w}") for w in workers), "their end")
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)


# Messages to its user --------------------------------------------------------------------

def run(*args, **kwargs):
    return subprocess.run([DEMO / "server-asan", *map(str, args)], text=True,
                          capture_output=True, timeout=DEADLINE, **kwargs)


def test_help():
    result = run("-h")
    assert result.returncode == 0 and result.stderr == ""
    for option in "wcaxomkvdh":
        assert re.search(rf"^  -{option} ", result.stdout, re.M), option


ADDRESS = "not an address: give IPV4:PORT or [IPV6]:PORT"
BAD_OPTIONS = [
    (["-w", "0"], "-w 0: not a number of workers: give 1 to"),
    (["-w", "-1"], "-w -1: not a number of workers"),
    (["-w", "two"], "-w two: not a number of workers"),
    (["-w", "1.5"], "-w 1.5: not a number of workers"),
    (["-w", ""], "-w : not a number of workers"),
    (["-w", "99999999999999999999"], "-w 99999999999999999999: not a number of workers"),
    (["-w"], "-w: the value is missing"),
    (["-w", CORES + 1], f"-w {CORES + 1}: more workers than cores, {CORES} "),
    (["-c", "x"], "-c x: not a core: give 0 to"),
    (["-c", "0,"], "-c : not a core: give 0 to"),
    (["-c", "0,1,0"], "-c 0: given twice"),
    (["-c", CORES], f"-c {CORES}: core {CORES} for worker 0 cannot be used"),
    (["-c", CORES - 1, "-w", "2"] if CORES > 1 else ["-c", "1"], "cannot be used"),
    (["-c", "1023"], "-c 1023: core 1023 for worker 0 cannot be used"),
    (["-a", "8080"], f"-a 8080: {ADDRESS}"),
    (["-a", "localhost:80"], f"-a localhost:80: {ADDRESS}"),
    (["-a", "http://127.0.0.1/"], f"-a http://127.0.0.1/: {ADDRESS}"),
    (["-a", "127.0.0.1:"], f"-a 127.0.0.1:: {ADDRESS}"),
    (["-a", "127.0.0.1:0"], f"-a 127.0.0.1:0: {ADDRESS}"),
    (["-a", "127.0.0.1:65536"], f"-a 127.0.0.1:65536: {ADDRESS}"),
    (["-a", ":80"], f"-a :80: {ADDRESS}"),
    (["-a", "::1:80"], f"-a ::1:80: {ADDRESS}"),
    (["-a", "[::1]"], f"-a [::1]: {ADDRESS}"),
    (["-a", "[]:80"], f"-a []:80: {ADDRESS}"),
    (["-a", "[127.0.0.1]:80"], f"-a [127.0.0.1]:80: {ADDRESS}"),
    (["-a", "[" + "1" * 80 + "]:80"], ADDRESS),
    (["-a", "127.0.0.1:9999", "-a", "127.0.0.1:9999"], "-a 127.0.0.1:9999: given twice"),
    (["-x", "backend"], f"-x backend: {ADDRESS}"),
    (["-m", "fast"], "-m fast: not a mode: give shared, exclusive, reuseport or cbpf"),
    (["-a", "127.0.0.1:9999", "9998"], f"-a 9998: {ADDRESS}"),
    (["-a", "127.0.0.1:9999", "[::1]:9999", "127.0.0.1:9999"], "given twice"),
    (["-x", "127.0.0.1:1", "backend", "-k"], f"-x backend: {ADDRESS}"),
    (["-x"], "-x: the value is missing"),
    (["-z"], "-z: no such option: give -w, "),
    (["--workers", "1"], "no such option"),
    (["8080"], "8080: not an option"),
]


def test_a_core_for_two_workers(tmp_path):
    """On a host that says that it has four cores."""
    (tmp_path / "online").write_text("0-3\n")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount --bind $1 /sys/devices/system/cpu/online && "
         "exec $2 -c 1,0 -w 3 -a 127.0.0.1:8099", "-", tmp_path / "online", DEMO / "server-asan"],
        capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr == (
        "server-asan: -c: core 1 is listed, and worker 2, for whom none is, would run there, too: "
        "list 3 cores\n")


@pytest.mark.parametrize("args, sentence", BAD_OPTIONS)
def test_bad_options(args, sentence):
    result = run(*args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"server-asan: .*\n", result.stderr) and sentence in result.stderr


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", ["shared", "reuseport"])
def test_port_in_use(mode, other):
    """A port that another demo server has is refused, too: they must not share its connections."""
    with server("-m", other, "-w", 1) as s:
        result = run("-m", mode, "-w", 1, "-a", f"127.0.0.1:{s.port}")
        assert result.returncode == 1 and result.stdout == ""
        assert re.fullmatch(rf"server-asan: -a 127.0.0.1:{s.port}: the port is in use: stop .*\n",
                            result.stderr)
        assert_ok(s.exchange(GET))
        s.stop()


def test_restart_on_the_same_port():
    """It starts while connections of the last run are in TIME_WAIT."""
    port = free_port()
    for _ in range(3):
        with server("-w", 1, port=port) as s:
            assert_ok(s.exchange(GET))
            s.stop()


def test_address_of_nobody():
    result = run("-w", 1, "-a", "192.0.2.1:8080")
    assert result.returncode == 1
    assert re.fullmatch(r"server-asan: -a 192.0.2.1:8080: no interface .*\n", result.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_privileged_port():
    """The system refuses this to an ordinary user."""
    limit = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if limit <= 1:
        pytest.skip("this host lets everybody use every port")
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(write, 2)
        binary = os.open(DEMO / "server", os.O_RDONLY)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        os.execve(binary, ["server", "-w", "1", "-a", "127.0.0.1:1"], {})
    os.close(write)
    with os.fdopen(read) as stderr:
        text = stderr.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert "-a 127.0.0.1:1: no permission for this port: run as root" in text


def test_log_that_cannot_be_opened(tmp_path):
    path = tmp_path / "missing" / "log"
    result = run("-w", 1, "-a", f"127.0.0.1:{free_port()}", "-o", path)
    assert result.returncode == 1
    assert re.fullmatch(rf"server-asan: -o {path}: cannot be opened for writing: .*\n",
                        result.stderr)


def test_log_and_debug(tmp_path):
    log = tmp_path / "log"
    log.write_text("kept\n")
    with server("-w", 1, "-d", "-o", log) as s:
        client = s.connect()
        client.sendall(b"GE")
        reset(client)
        assert_ok(s.exchange(GET))
        # The kernel may handle the reset on another core, after the exchange.
        wait_for(lambda: "recv:" in log.read_text(), "the line about the reset")
        s.stop()
        lines = log.read_text().splitlines()
        assert lines[0] == "kept"
        # A worker may accept between the two lines "ready:", in the output and in the log.
        assert s.line("ready:").rstrip("\n") in lines and lines[-1] + "\n" == s.out[-1]
        assert sum(bool(re.fullmatch(r"worker 0: fd \d+: accepted", x)) for x in lines) == 2
        assert any(re.fullmatch(r"worker 0: fd \d+: recv: Connection reset by peer", x)
                   for x in lines)


def shown_rates():
    """The sum of the rates of accepts that a server shows during and after 300 requests."""
    one = r"accepted=(\d+) requests=(\d+) responses=(\d+) errors=(\d+)"
    with server("-v", "-w", CORES) as s:
        ab(s.url, 300, 10)
        # One more than there are now has the last request.
        many = sum(x.startswith("stats:") for x in s.out) + 2
        wait_for(lambda: sum(x.startswith("stats:") for x in s.out) >= many, "two lines")
        s.stop()
        lines = [x for x in s.out if x.startswith("stats:")]
        each = "".join(rf" \| worker {i}: {one}" for i in range(CORES))
        accepted = 0
        for line in lines:
            match = re.fullmatch(rf"stats: {one}{each}\n", line)
            assert match, line
            figures = list(map(int, match.groups()))
            for i in range(4):
                assert figures[i] == sum(figures[4 + i::4])
            accepted += figures[0]
    return accepted


def test_statistics_each_second():
    """Rates of intervals of about a second: their sum is about the number."""
    # A line that is late, since other work has the machine, is of a longer interval.
    sums = []
    while not sums or not 200 <= sums[-1] <= 400:
        assert len(sums) < 5, sums
        sums.append(shown_rates())


def test_valgrind(tmp_path):
    wrap = ("valgrind", "-q", "--error-exitcode=99", "--leak-check=full",
            "--errors-for-leak-kinds=definite", "--track-fds=no")
    with server("-w", 1, "-k", binary="server", wrap=wrap) as backend:
        with server("-w", 1, "-x", f"127.0.0.1:{backend.port}", binary="server", wrap=wrap) as s:
            ab(s.url, 100, 10)
            assert_ok(s.exchange(GET * 500 + GET_CLOSE), 501)
            s.stop()
            client = backend.connect()
            client.sendall(b"GET")
            reset(client)
            total = backend.stop()
            assert total["responses"] == 601 and total["errors"] == 1
