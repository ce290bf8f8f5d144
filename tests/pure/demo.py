# SPDX-License-Identifier: GPL-2.0-only
"""Starts, asks and stops the demo server: functions that its tests share.

Functional tests drive the build with address and undefined-behaviour
sanitizers: any finding ends a worker, which the server reports on stderr, and
Server.stop() insists that stderr holds nothing a test does not expect.
"""
import contextlib
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
DEADLINE = 20  # s; the time limit of any single wait


@pytest.fixture(scope="session", autouse=True)
def demo_built():
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
        """All bytes that the server sends until it ends the connection."""
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


def listening(port):
    """Whether a socket listens at the port, by IPv4."""
    rows = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def assert_no_busy_loop(pid):
    """It may still have work when this begins; a loop would go on with it."""
    def idle():
        before = cpu_seconds(pid)
        time.sleep(0.7)
        return cpu_seconds(pid) - before < 0.1
    wait_for(idle, "a worker at rest")


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
