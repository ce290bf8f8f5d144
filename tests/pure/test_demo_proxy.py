# SPDX-License-Identifier: GPL-2.0-only
"""The demo server as a proxy, natively on loopback."""
import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from demo import demo_built  # noqa: F401 a fixture
from demo import (
    ab, assert_no_busy_loop, assert_totals, CORES, DEADLINE, DEMO, free_port, GET, read_all, reset,
    resident_bytes, server, wait_for, wrk
)


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
        # Seconds in which ab was slow have fewer; a late line counts more than a second.
        counts, end = [], time.monotonic() + DEADLINE
        while len(counts) < 3 or (sum(counts) < 150 and time.monotonic() < end):
            counts.append(int(re.fullmatch(r"Request/s +(\d+)\n", terminal.readline())[1]))
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert 150 <= sum(counts)
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
        assert_no_busy_loop(worker)
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
