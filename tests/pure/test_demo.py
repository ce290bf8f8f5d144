# SPDX-License-Identifier: GPL-2.0-only
"""The demo server, natively on loopback: load, and all kinds of input from clients."""
import contextlib
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
    ab, assert_no_busy_loop, assert_ok, assert_totals, CORES, DEADLINE, GET, GET_CLOSE, MODES,
    read_all, receive_answers, reset, resident_bytes, server, wrk
)


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
    """The measured calls: accept4, epoll_ctl, recv, send, close and the waiting."""
    trace = tmp_path / "trace"
    with server("-w", 1, binary="server") as s:
        with subprocess.Popen(["strace", "-o", trace, "-p", str(s.workers()[0])], text=True,
                              stderr=subprocess.PIPE) as strace:
            assert strace.stderr.readline().endswith(" attached\n")
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
            # Send it in one piece, so that the server sees more than the request.
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
        # A body is not a request, and neither is the blank line after one.
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
        assert_no_busy_loop(worker)
        assert resident_bytes(worker) - before < 16 << 20
        # The last request may be cut anywhere, so complete it.
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
