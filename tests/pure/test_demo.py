# SPDX-License-Identifier: GPL-2.0-only
"""The demo server, natively on loopback: needs ab, wrk, valgrind and a compiler.

Functional tests drive the build with address and undefined-behaviour
sanitizers: any finding ends a worker, which the server reports on stderr, and
Server.stop() insists that stderr holds nothing a test does not expect.
"""
import contextlib
import hashlib
import os
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "demo"
CORES = len(os.sched_getaffinity(0))
MODES = ["shared", "exclusive", "reuseport", "cbpf"]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
DEADLINE = 20  # s; what any single wait may take before a test fails


@pytest.fixture(scope="session", autouse=True)
def build():
    subprocess.run(["make", "-s", "-C", DEMO, "all", "asan"], check=True)


def free_port():
    """Below the ephemeral range, so that no load generator's connection takes it."""
    while True:
        port = random.randrange(10000, 32000)
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::", port))  # IPv4 too: IPV6_V6ONLY is off
            except OSError:
                continue
        return port


def wait_for(condition, what, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Server:
    """A running server; its threads keep both output pipes empty."""

    def __init__(self, *args, binary="server-asan", wrap=(), nofile=None, port=None):
        self.port = port or free_port()
        if "-a" not in args:
            args = ("-a", f"127.0.0.1:{self.port}") + args

        def limit():
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))

        self.process = subprocess.Popen(
            [*wrap, DEMO / binary, *map(str, args)], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=limit if nofile else None)
        self.out, self.err = [], []
        self.readers = []
        for pipe, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            reader = threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
            reader.start()
            self.readers.append(reader)
        wait_for(lambda: self.process.poll() is not None or self.line("ready:"), "ready:")
        assert self.line("ready:"), "".join(self.err)

    @staticmethod
    def _read(pipe, lines):
        for line in pipe:
            lines.append(line)

    def line(self, start):
        return next((x for x in self.out if x.startswith(start)), None)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/"

    def workers(self):
        pid = self.process.pid
        return [int(p) for p in
                Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def connect(self, receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", self.port))
        return client

    def exchange(self, data):
        """Everything the server says until it ends the connection."""
        with self.connect() as client:
            client.sendall(data)
            return read_all(client)

    def wait(self):
        status = self.process.wait(DEADLINE)
        for reader in self.readers:
            reader.join(DEADLINE)
        return status

    def stop(self, sig=signal.SIGTERM, stderr=""):
        """Totals as a dict, after checking that the stop was clean."""
        self.process.send_signal(sig)
        status = self.wait()
        assert re.fullmatch(stderr, "".join(self.err), re.S), "".join(self.err)
        assert status == 0
        return totals(self.out[-1])


def totals(line):
    match = re.fullmatch(r"total: accepted=(\d+) requests=(\d+) responses=(\d+) errors=(\d+)\n",
                         line)
    assert match, line
    return dict(zip(("accepted", "requests", "responses", "errors"), map(int, match.groups())))


@contextlib.contextmanager
def server(*args, **kwargs):
    s = Server(*args, **kwargs)
    try:
        yield s
    finally:
        if s.process.poll() is None:
            for worker in s.workers():
                os.kill(worker, signal.SIGKILL)
            s.process.kill()
            s.wait()


def read_all(client):
    data = bytearray()
    while True:
        piece = client.recv(1 << 16)
        if not piece:
            return bytes(data)
        data += piece


def assert_ok(answer, count=1, head=False):
    """Exactly that many whole answers, nothing more."""
    start = 0
    for _ in range(count):
        end = answer.find(b"\r\n\r\n", start)
        assert end >= 0, answer[start:]
        header = answer[start:end + 2]
        assert re.match(rb"HTTP/1\.[01] 200 OK\r\n", header), header
        assert b"\r\nContent-Length: 64\r\n" in header
        start = end + 4 + (0 if head else 64)
    assert start == len(answer)


def receive_answers(client, count):
    data = b""
    while data.count(b"\r\n\r\n") < count or not data.endswith(b"\r\n"):
        piece = client.recv(1 << 16)
        assert piece, data
        data += piece
    return data


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def ab(url, requests, concurrency, *options):
    out = subprocess.run(["ab", "-q", "-n", str(requests), "-c", str(concurrency), *options, url],
                         text=True, capture_output=True, timeout=DEADLINE)
    assert out.returncode == 0, out.stderr
    assert re.search(rf"^Complete requests: +{requests}$", out.stdout, re.M), out.stdout
    assert re.search(r"^Failed requests: +0$", out.stdout, re.M), out.stdout
    assert "Non-2xx" not in out.stdout
    return out.stdout


def wrk(url, connections, *options):
    out = subprocess.run(["wrk", "-t1", f"-c{connections}", "-d1", *options, url],
                         text=True, capture_output=True, timeout=DEADLINE)
    assert out.returncode == 0, out.stderr
    assert "Socket errors" not in out.stdout and "Non-2xx" not in out.stdout, out.stdout
    requests = int(re.search(r"(\d+) requests in", out.stdout)[1])
    assert requests > 0
    return requests


def assert_totals(total, requests, extra=0):
    """All answered without error; ab opens up to `extra` connections that it never uses."""
    assert total["requests"] == total["responses"] == requests
    assert requests <= total["accepted"] <= requests + extra
    assert total["errors"] == 0


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# Load ------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", MODES)
def test_load(mode):
    with server("-m", mode, "-w", CORES) as s:
        assert s.line("ready:") == f"ready: {CORES} workers on 127.0.0.1:{s.port} mode {mode}\n"
        ab(s.url, 1500, 50, "-r")
        done = wrk(s.url, 30, "-H", "Connection: close")
        total = s.stop()
        assert total["requests"] >= 1500 + done
        assert total["responses"] <= total["requests"] <= total["accepted"]


@pytest.mark.parametrize("mode", MODES)
def test_totals_add_up(mode):
    with server("-m", mode, "-w", CORES) as s:
        for _ in range(100):
            assert_ok(s.exchange(GET))
        assert s.stop() == {"accepted": 100, "requests": 100, "responses": 100, "errors": 0}


@pytest.mark.parametrize("mode", MODES)
def test_totals_of_concurrent_load_add_up(mode):
    with server("-m", mode, "-w", CORES) as s:
        ab(s.url, 1000, 20)
        assert_totals(s.stop(), 1000, extra=20)


def test_load_keepalive():
    with server("-k", "-w", CORES) as s:
        out = ab(s.url, 2000, 20, "-k")
        assert re.search(r"^Keep-Alive requests: +2000$", out, re.M), out
        done = wrk(s.url, 20)
        total = s.stop()
        assert total["requests"] >= 2000 + done
        assert total["accepted"] <= 40 + 1  # wrk first tries one connection


def test_load_keepalive_server_with_closing_clients():
    with server("-k", "-w", CORES) as s:
        ab(s.url, 500, 20)
        wrk(s.url, 20, "-H", "Connection: close")
        s.stop()


def test_system_calls_per_connection(tmp_path):
    """What is measured: accept4, epoll_ctl, recv, send, close and the waiting."""
    trace = tmp_path / "trace"
    with server("-w", 1, binary="server") as s:
        with subprocess.Popen(["strace", "-qq", "-o", trace, "-p", str(s.workers()[0])]) as strace:
            wait_for(lambda: "TracerPid:\t0" not in
                     Path(f"/proc/{s.workers()[0]}/status").read_text(), "strace attaches")
            ab(s.url, 100, 1)
            strace.send_signal(signal.SIGINT)
        s.stop()
    calls = re.findall(r"^(\w+)\(", trace.read_text(), re.M)
    for name in ("accept4", "epoll_ctl", "recvfrom", "sendto", "close"):
        assert calls.count(name) == 100
    assert set(calls) == {"accept4", "epoll_ctl", "recvfrom", "sendto", "close", "epoll_wait"}


# Requests --------------------------------------------------------------------------------

@pytest.mark.parametrize("request_bytes", [
    GET,
    b"GET / HTTP/1.0\n\n",
    b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 100000 + b"\r\n\r\n",
    b"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"hello\n",
    b"\r\n",
    b"\0\xff\xfe",
    b"GET /\r\n",
    b"GET / FTP/1.0\r\n",
    b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
], ids=range(14))
@pytest.mark.parametrize("options", [(), ("-k",)], ids=["single", "keepalive"])
def test_answers_whatever_arrives(options, request_bytes):
    with server("-w", 1, *options) as s:
        with s.connect() as client:
            client.sendall(request_bytes)
            assert_ok(receive_answers(client, 1))
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 1, "errors": 0}


@pytest.mark.parametrize("options", [(), ("-k",)], ids=["single", "keepalive"])
def test_answers_a_request_cut_short_by_half_close(options):
    with server("-w", 1, *options) as s, s.connect() as client:
        client.sendall(b"GET / HTT")
        client.shutdown(socket.SHUT_WR)
        assert_ok(read_all(client))


def test_no_answer_to_silence():
    with server("-w", 1) as s:
        with s.connect() as client:
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        assert s.stop() == {"accepted": 1, "requests": 0, "responses": 0, "errors": 0}


def test_request_byte_by_byte():
    with server("-w", 1) as s:
        with s.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in GET_CLOSE:
                client.sendall(bytes([byte]))
                time.sleep(0.001)
            assert_ok(read_all(client))
        assert s.stop()["requests"] == 1


@pytest.mark.parametrize("options", [(), ("-k",)], ids=["single", "keepalive"])
def test_large_post_in_pieces(options):
    body = os.urandom(1 << 20)
    with server("-w", 1, *options) as s:
        with s.connect() as client:
            client.sendall(b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
                           % len(body))
            for start in range(0, len(body), 40000):
                client.sendall(body[start:start + 40000])
                time.sleep(0.002)
            assert_ok(read_all(client))
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 1, "errors": 0}


@pytest.mark.parametrize("head", [
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    GET_CLOSE,
    b"no HTTP at all\n",
], ids=["chunked", "more-than-announced", "no-http"])
def test_data_after_the_answer_draws_no_reset(head):
    """The client writes on for 2 MB after it was answered, and only then reads."""
    with server("-w", 1) as s:
        with s.connect() as client:
            # In one piece, so that the server sees there is more than the request.
            client.sendall(head + b"x" * 1000)
            for _ in range(32):
                client.sendall(b"x" * 65536)
                time.sleep(0.001)
            client.shutdown(socket.SHUT_WR)
            assert_ok(read_all(client))
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 1, "errors": 0}


def test_keepalive_honours_the_client():
    with server("-w", 1, "-k") as s:
        assert_ok(s.exchange(GET + GET_CLOSE), 2)
        assert_ok(s.exchange(b"GET / HTTP/1.0\r\n\r\n"))
        assert_ok(s.exchange(b"HEAD / HTTP/1.1\r\n\r\nHEAD / HTTP/1.0\r\n\r\n"), 2, head=True)
        # Bodies are no requests, the blank line after one is none either.
        post = b"POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n"
        assert_ok(s.exchange(post * 3 + GET_CLOSE), 4)
        with s.connect() as client:
            for _ in range(3):
                client.sendall(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                answer = receive_answers(client, 1)
                assert_ok(answer)
                assert b"\r\nConnection: keep-alive\r\n" in answer
        assert s.stop()["requests"] == 2 + 1 + 2 + 4 + 3


def test_without_keepalive_the_answer_says_so():
    with server("-w", 1) as s:
        answer = s.exchange(GET)
        assert_ok(answer)
        assert answer.startswith(b"HTTP/1.0 ") and b"\r\nConnection: close\r\n" in answer


def test_keepalive_pipelined_to_a_client_that_does_not_read():
    """Answers stop when the client takes none, requests are held back, nothing is lost."""
    sent = 0
    with server("-w", 1, "-k") as s, s.connect(receive_buffer=4096) as client:
        worker = s.workers()[0]
        before = resident_bytes(worker)
        batch = GET * 1000
        client.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while sent < 200 << 20:
                sent += client.send(batch[sent % len(GET):])
        assert sent < 200 << 20, "the server takes requests without end"
        cpu = cpu_seconds(worker)
        time.sleep(0.5)
        assert cpu_seconds(worker) - cpu < 0.1, "busy though the client takes nothing"
        assert resident_bytes(worker) - before < 16 << 20
        # The last request may be cut anywhere: complete it, as the last one.
        client.settimeout(DEADLINE)
        rest = (GET[sent % len(GET):] if sent % len(GET) else b"") + GET_CLOSE
        writer = threading.Thread(target=client.sendall, args=(rest,))
        writer.start()
        answer = read_all(client)
        writer.join()
        count = -(-sent // len(GET)) + 1
        assert_ok(answer, count)
        assert s.stop()["responses"] == count


# Clients that go away --------------------------------------------------------------------

def test_client_resets_are_counted_and_survived():
    with server("-w", 1, "-k") as s:
        for _ in range(50):
            client = s.connect()
            client.sendall(b"GET / HT")
            reset(client)
        with s.connect() as client:
            client.sendall(GET)
            assert_ok(receive_answers(client, 1))
            reset(client)
        assert_ok(s.exchange(GET_CLOSE))
        total = s.stop()
        assert total["accepted"] == 52 and total["requests"] == 2
        assert total["errors"] == 51


def test_client_resets_while_it_is_answered():
    with server("-w", 1, "-k") as s:
        client = s.connect(receive_buffer=4096)
        client.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                client.sendall(GET * 1000)
        reset(client)
        assert_ok(s.exchange(GET_CLOSE))
        assert s.stop()["errors"] == 1


# Proxy -----------------------------------------------------------------------------------

class Backend:
    """Accepts on loopback and hands every connection to `serve` in a thread."""

    def __init__(self, serve):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.accepted = 0
        self.serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.accepted += 1
                connection.settimeout(DEADLINE)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            self.serve(connection)


@contextlib.contextmanager
def proxy(serve, *args, **kwargs):
    backend = Backend(serve)
    try:
        with server("-x", f"127.0.0.1:{backend.port}", *args, **kwargs) as s:
            s.backend = backend
            yield s
    finally:
        backend.socket.close()


def test_proxy_load():
    with server("-w", 1) as backend:
        with server("-w", CORES, "-x", f"127.0.0.1:{backend.port}") as s:
            ab(s.url, 500, 20, "-r")
            assert_totals(s.stop(), 500, extra=20)
            assert_totals(backend.stop(), 500, extra=20)


def test_proxy_keepalive_connections_pass_through():
    with server("-w", 1, "-k") as backend:
        with server("-w", 1, "-x", f"127.0.0.1:{backend.port}") as s:
            ab(s.url, 500, 5, "-k")
            wrk(s.url, 5)
            s.stop()


def test_command_line_of_the_original():
    """Several addresses after one flag, and -k with -x: the backends decide."""
    ports = [free_port(), free_port()]
    with server("-w", 1, "-k") as one, server("-w", 1, "-k") as two:
        with server("-k", "-w", 1, "-a", *(f"127.0.0.1:{x}" for x in ports),
                    "-x", f"127.0.0.1:{one.port}", f"127.0.0.1:{two.port}") as s:
            assert s.line("ready:").startswith(
                f"ready: 1 workers on 127.0.0.1:{ports[0]},127.0.0.1:{ports[1]} ")
            for port in ports:
                ab(f"http://127.0.0.1:{port}/", 100, 2, "-k")
            s.stop()
        for backend in (one, two):
            assert backend.stop()["accepted"] >= 2


def test_requests_per_second_on_a_terminal_only():
    """The original prints them without -v; a measurement has a file there, and no wake-ups."""
    port, (master, slave) = free_port(), os.openpty()
    process = subprocess.Popen([DEMO / "server-asan", "-w", "1", "-a", f"127.0.0.1:{port}"],
                               stdout=slave)
    os.close(slave)
    with os.fdopen(master, errors="replace") as terminal:
        assert terminal.readline().startswith("ready:")
        ab(f"http://127.0.0.1:{port}/", 300, 10)
        counts = [re.fullmatch(r"Request/s +(\d+)\n", terminal.readline()) for _ in range(3)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert all(counts) and 150 <= sum(int(x[1]) for x in counts)
    with server("-w", 1) as s:
        time.sleep(1.5)
        s.stop()
        assert [x.split(":")[0] for x in s.out] == ["ready", "total"]


def test_proxy_big_bodies_both_ways_at_once():
    """64 MB up and 64 MB down, interleaved with pauses on either side."""
    up, down = os.urandom(1 << 20), os.urandom(1 << 20)
    digest = {}

    def serve(connection):
        def receive():
            got = hashlib.sha256()
            while piece := connection.recv(1 << 16):
                got.update(piece)
            digest["up"] = got.digest()
        reader = threading.Thread(target=receive)
        time.sleep(0.3)  # the request backs up first
        reader.start()
        for _ in range(64):
            connection.sendall(down)
        reader.join()

    with proxy(serve, "-w", 1) as s:
        with s.connect() as client:
            def send():
                for _ in range(64):
                    client.sendall(up)
                client.shutdown(socket.SHUT_WR)
            writer = threading.Thread(target=send)
            writer.start()
            time.sleep(0.6)  # now the answer backs up too
            answer = read_all(client)
            writer.join()
        assert digest["up"] == hashlib.sha256(up * 64).digest()
        assert hashlib.sha256(answer).digest() == hashlib.sha256(down * 64).digest()
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 1, "errors": 0}


@pytest.mark.parametrize("backend_ends", [False, True])
def test_proxy_client_that_does_not_read(backend_ends):
    """Back-pressure reaches the backend: little memory, no busy loop, nothing lost.

    With backend_ends the client has half-closed and the backend has sent its
    end of file while the answer waits: a paused socket in a state that epoll
    would report forever.
    """
    size = 2 << 20 if backend_ends else 256 << 20
    taken = []

    def serve(connection):
        request = connection.recv(100)
        if backend_ends:
            # All of it fits into the socket buffers on the way.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            assert connection.recv(100) == b""
        connection.settimeout(0.5 if not backend_ends else DEADLINE)
        view, start = memoryview(bytes(1 << 20)), 0
        with contextlib.suppress(TimeoutError):
            while start < size:
                start += connection.send(view[:size - start])
        taken.append(start)
        assert request

    with proxy(serve, "-w", 1) as s, s.connect(receive_buffer=65536) as client:
        worker = s.workers()[0]
        before = resident_bytes(worker)
        client.sendall(b"go")
        if backend_ends:
            client.shutdown(socket.SHUT_WR)
        wait_for(lambda: taken, "the backend's end")
        assert taken[0] == size if backend_ends else taken[0] < 64 << 20
        time.sleep(0.2)
        cpu = cpu_seconds(worker)
        time.sleep(0.5)
        assert cpu_seconds(worker) - cpu < 0.1, "busy though the client takes nothing"
        assert resident_bytes(worker) - before < 16 << 20
        assert len(read_all(client)) == taken[0]
        client.close()
        total = s.stop()
        assert total["responses"] == 1 and total["errors"] == 0


def test_proxy_half_close():
    """The backend answers only when the client has ended its direction."""
    def serve(connection):
        connection.sendall(hashlib.sha256(read_all(connection)).hexdigest().encode())

    with proxy(serve, "-w", 1) as s, s.connect() as client:
        client.sendall(b"x" * 100000)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hashlib.sha256(b"x" * 100000).hexdigest().encode()


def test_proxy_half_close_by_the_backend():
    got = []

    def serve(connection):
        connection.sendall(b"early")
        connection.shutdown(socket.SHUT_WR)
        got.append(read_all(connection))

    with proxy(serve, "-w", 1) as s:
        with s.connect() as client:
            assert read_all(client) == b"early"
            client.sendall(b"late")
        wait_for(lambda: got, "the backend's end of file")
        assert got == [b"late"]
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 1, "errors": 0}


def test_proxy_backend_down():
    with server("-w", 1, "-x", f"127.0.0.1:{free_port()}") as s:
        for size in (0, 3 << 20):
            answer = s.exchange(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % size
                                + b"x" * size)
            assert answer.startswith(b"HTTP/1.0 502 ") and b"Connection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nThe backend gave no answer.\r\n")
        total = s.stop()
        assert total["accepted"] == total["errors"] == 2 and total["responses"] == 0


def test_proxy_backend_resets_before_its_answer():
    def serve(connection):
        connection.recv(100)
        reset(connection)

    with proxy(serve, "-w", 1) as s:
        assert s.exchange(GET).startswith(b"HTTP/1.0 502 ")
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 0, "errors": 1}


def test_proxy_backend_resets_within_its_answer():
    """A cut answer must not look like a complete one."""
    client_has_some = threading.Event()

    def serve(connection):
        connection.recv(100)
        connection.sendall(b"half of the ans")
        assert client_has_some.wait(DEADLINE)
        reset(connection)

    with proxy(serve, "-w", 1) as s:
        with s.connect() as client:
            client.sendall(GET)
            assert client.recv(100) == b"half of the ans"
            client_has_some.set()
            with pytest.raises(ConnectionResetError):
                read_all(client)
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 0, "errors": 1}


def test_proxy_backend_ends_without_answer():
    with proxy(lambda connection: connection.recv(100), "-w", 1) as s:
        assert s.exchange(GET) == b""
        assert s.stop() == {"accepted": 1, "requests": 1, "responses": 0, "errors": 1}


def test_proxy_backend_answers_early_and_leaves():
    """The rest of the client's upload has nowhere to go; the answer still arrives."""
    def serve(connection):
        connection.recv(100)
        connection.sendall(b"enough")
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.1)

    with proxy(serve, "-w", 1) as s:
        with s.connect() as client:
            client.sendall(b"x" * 100)
            assert client.recv(100) == b"enough"
            time.sleep(0.3)
            for _ in range(50):
                client.sendall(b"x" * 65536)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
        s.stop()


def test_proxy_client_resets():
    def serve(connection):
        while connection.recv(1 << 16):
            connection.sendall(b"x" * 65536)

    with proxy(serve, "-w", 1) as s:
        for _ in range(20):
            client = s.connect()
            client.sendall(b"go")
            client.recv(100)
            reset(client)
        with s.connect() as client:
            client.sendall(b"go")
            assert client.recv(10)
            client.shutdown(socket.SHUT_WR)
            read_all(client)
        total = s.stop()
        assert total["accepted"] == 21 and total["responses"] >= 1
        assert total["responses"] + total["errors"] == 21


def test_proxy_takes_backends_in_turn():
    def serve(connection):
        connection.recv(100)
        connection.sendall(b"x")

    other = Backend(serve)
    with proxy(serve, "-w", 1, "-x", f"127.0.0.1:{other.port}") as s:
        for _ in range(10):
            assert s.exchange(GET) == b"x"
        assert (s.backend.accepted, other.accepted) == (5, 5)
    other.socket.close()


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
@pytest.mark.parametrize("first_core", range(min(CORES, 4)))
def test_cbpf_picks_the_worker_of_the_cpu(tmp_path, first_core):
    """On loopback a connection arrives on the CPU of the client."""
    log = tmp_path / "log"
    workers = CORES - first_core
    affinity = os.sched_getaffinity(0)
    with server("-m", "cbpf", "-c", first_core, "-d", "-o", log) as s:
        expected = []
        try:
            for cpu in sorted(affinity) * 20:
                os.sched_setaffinity(0, {cpu})
                assert_ok(s.exchange(GET))
                expected.append((cpu - first_core) % workers)
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
    """No busy loop, no lost connection, and service goes on when something closes."""
    with server("-w", 1, "-m", mode, nofile=40) as s:
        clients = [s.connect() for _ in range(60)]
        worker = s.workers()[0]
        wait_for(lambda: s.err, "the message about descriptors")
        cpu = cpu_seconds(worker)
        time.sleep(1)
        assert cpu_seconds(worker) - cpu < 0.1, "spins"
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
    """Idle connections do not delay it; a half-sent request is still answered."""
    with server("-w", 1, "-k") as s, s.connect() as idle, s.connect() as busy:
        busy.sendall(b"GET / HTTP/1.1\r\n")
        wait_for(lambda: len(os.listdir(f"/proc/{s.workers()[0]}/fd")) >= 7, "both accepted")
        time.sleep(0.1)
        s.process.send_signal(sig)
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            s.connect()
        busy.sendall(b"\r\n")
        answer = read_all(busy)
        assert_ok(answer)
        assert b"Connection: close" in answer
        assert idle.recv(1) == b""
        assert s.wait() == 0
        assert totals(s.out[-1]) == {"accepted": 2, "requests": 1, "responses": 1, "errors": 0}
        assert s.err == []


def test_stop_is_immediate_when_idle_and_bounded_when_not():
    for started, low, high in ((b"", 0, 0.8), (b"GET", 0.9, 3)):
        with server("-w", 1, "-k") as s, s.connect() as client:
            client.sendall(started)
            time.sleep(0.1)
            start = time.monotonic()
            s.stop()
            assert low <= time.monotonic() - start < high


def test_stop_of_the_whole_process_group():
    """What Ctrl-C and systemd do: workers get the signal from outside as well."""
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


# What it tells its user ------------------------------------------------------------------

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


@pytest.mark.parametrize("args, sentence", BAD_OPTIONS)
def test_bad_options(args, sentence):
    result = run(*args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(r"server-asan: .*\n", result.stderr) and sentence in result.stderr


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", ["shared", "reuseport"])
def test_port_in_use(mode, other):
    """Also by a server of the same kind, whose connections it must not share."""
    with server("-m", other, "-w", 1) as s:
        result = run("-m", mode, "-w", 1, "-a", f"127.0.0.1:{s.port}")
        assert result.returncode == 1 and result.stdout == ""
        assert re.fullmatch(rf"server-asan: -a 127.0.0.1:{s.port}: the port is in use: stop .*\n",
                            result.stderr)
        assert_ok(s.exchange(GET))
        s.stop()


def test_restart_on_the_same_port():
    """With connections of the last run in TIME_WAIT."""
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
    """Refused by the system to an ordinary user."""
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
        s.stop()
        lines = log.read_text().splitlines()
        assert lines[0] == "kept"
        assert lines[1] + "\n" == s.line("ready:") and lines[-1] + "\n" == s.out[-1]
        assert sum(bool(re.fullmatch(r"worker 0: fd \d+: accepted", x)) for x in lines) == 2
        assert any(re.fullmatch(r"worker 0: fd \d+: recv: Connection reset by peer", x)
                   for x in lines)


def test_statistics_each_second():
    one = r"accepted=(\d+) requests=(\d+) responses=(\d+) errors=(\d+)"
    with server("-v", "-w", CORES) as s:
        ab(s.url, 300, 10)
        wait_for(lambda: sum(x.startswith("stats:") for x in s.out) >= 2, "two lines")
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
        # Rates of intervals of about a second: their sum is about the number.
        assert 200 <= accepted <= 400


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
