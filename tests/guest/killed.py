#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Kills workers of a server under load, and prints what became of the connections:

    killed.py MASTER_PID PORT KILLS

A worker is stopped first, so that what it has accepted can be read: the kernel resets these
connections, with any backend and without. All others have to be answered, also the ones that wait
in its queue. A kill counts if such ones are there.
"""
import ctypes
import json
import os
import random
import select
import signal
import socket
import sys
import time

PIDFD_GETFD = 438
# Connections that are made while a worker is stopped.
WAITING = 4
# Seconds until a connection counts as failed.
PATIENCE = 30
# In struct tcp_info; for a listener it is the number of connections that wait.
TCPI_UNACKED = 24
CORES = sorted(os.sched_getaffinity(0))


def connect(port):
    one = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    one.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return one


def answered(one, deadline):
    try:
        one.settimeout(max(0.1, deadline - time.monotonic()))
        return bool(one.recv(4096))
    except OSError:
        return False
    finally:
        one.close()


def client(core, port, stop):
    """Connects until the pipe is closed: the number of connections, and ports of failed ones."""
    os.sched_setaffinity(0, {core})
    count, failed = 0, []
    while not select.select([stop], [], [], 0)[0]:
        count += 1
        try:
            one = connect(port)
        except OSError:
            failed.append(0)
            continue
        number = one.getsockname()[1]
        if not answered(one, time.monotonic() + PATIENCE):
            failed.append(number)
    return count, failed


def start_clients(port):
    """A descriptor that ends them when it is closed, and one for the results of each."""
    stop, end = os.pipe()
    pipes = []
    for core in CORES:
        ours, theirs = os.pipe()
        if not os.fork():
            os.close(end)
            with os.fdopen(theirs, "w") as file:
                json.dump(client(core, port, stop), file)
            os._exit(0)
        os.close(theirs)
        pipes.append(ours)
    os.close(stop)
    return end, pipes


def sockets(pid):
    """Copies of a process's sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    for number in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
            with socket.socket(fileno=libc.syscall(PIDFD_GETFD, process, int(number), 0)) as copy:
                yield copy
    os.close(process)


def look(pid):
    """The clients' ports of what a stopped worker has accepted, and the longest of its queues."""
    accepted, longest = set(), 0
    for copy in sockets(pid):
        if copy.family != socket.AF_INET:
            continue
        if copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            waiting = int.from_bytes(info[TCPI_UNACKED:TCPI_UNACKED + 4], sys.byteorder)
            longest = max(longest, waiting)
            continue
        try:
            accepted.add(copy.getpeername()[1])
        except OSError:
            # The client has gone.
            pass
    return accepted, longest


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def workers(master):
    """{worker: its core} of those that have a socket of their own."""
    with open(f"/proc/{master}/task/{master}/children", encoding="ascii") as file:
        found = {}
        for pid in map(int, file.read().split()):
            try:
                cores = os.sched_getaffinity(pid)
            except ProcessLookupError:
                continue
            if len(cores) == 1:
                found[pid] = cores.pop()
        return found


def kill_one(master, port):
    """What the worker had accepted, whether connections waited for it, and these connections."""
    found = {}
    while len(found) < 2:
        found = workers(master)
    pid, core = random.choice(sorted(found.items()))
    os.kill(pid, signal.SIGSTOP)
    while state(pid) != "T":
        time.sleep(0.001)
    os.sched_setaffinity(0, {core})
    waiting = [connect(port) for _ in range(WAITING)]
    os.sched_setaffinity(0, CORES)
    accepted, longest = look(pid)
    os.kill(pid, signal.SIGKILL)
    # Until the master has seen it.
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.001)
    return accepted, longest >= WAITING, waiting


def main():
    master, port, wanted = map(int, sys.argv[1:])
    random.seed(1)
    end, pipes = start_clients(port)
    excused, kills, tries, left = set(), 0, 0, []
    while kills < wanted and tries < 5 * wanted:
        accepted, waited, waiting = kill_one(master, port)
        excused |= accepted
        kills += waited
        tries += 1
        left += waiting
    os.close(end)
    count, failed, deadline = len(left), [], time.monotonic() + PATIENCE
    for one in left:
        number = one.getsockname()[1]
        if not answered(one, deadline):
            failed.append(number)
    for pipe in pipes:
        with os.fdopen(pipe) as file:
            connections, more = json.load(file)
        count += connections
        failed += more
    reset = sum(number in excused for number in failed)
    print(json.dumps({"kills": kills, "tries": tries, "connections": count,
                      "accepted and reset": reset, "lost": len(failed) - reset}))


if __name__ == "__main__":
    main()
