# SPDX-License-Identifier: GPL-2.0-only
"""The library without the module (FSOCKET_BACKEND=kernel)."""
import errno
import json
import re
import shlex
import time

import pytest

from conftest import KERNELS
from ctl import eventually
from test_module import FOLDER, each_of, run_one

PRELOAD = "LD_PRELOAD=/usr/local/lib/libfsocket.so FSOCKET_BACKEND=kernel FSOCKET_REQUIRED=1"
# The listeners of these tests have no group.
FALL_BACK = ("test_few_descriptors", "test_environment_changes")
UNIT = "fsbench-kernel-backend"
NGINX = """
worker_processes 8;
pid /run/fsbench-kernel.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
    access_log off;
    server { listen 80 backlog=4096; return 200 "ok\\n"; }
}
"""

pytestmark = pytest.mark.usefixtures("quiet_kernel", "no_module")


@pytest.fixture(scope="module")
def no_module(lab):
    lab.unload_module()
    yield
    lab.server("modprobe fastsocket")


@each_of("test_kernel_backend", "test_kernel_waits", "test_kernel_handlers", "test_kernel_workers",
         "test_kernel_descriptors", "test_kernel_calls", "test_kernel_others",
         "test_kernel_unseen", "test_kernel_exec", "test_kernel_places",
         "test_kernel_pointers", "test_kernel_tables", "test_kernel_starts",
         "test_kernel_inherited", "test_kernel_stops", "test_kernel_threads",
         "test_kernel_cancel")
def test_program(lab, program, name):
    # A program that requires a group of its own would end if it cannot have one.
    preload = PRELOAD.replace(" FSOCKET_REQUIRED=1", "") if name in FALL_BACK else PRELOAD
    run_one(lab, preload, program, name)


@pytest.mark.parametrize("name", ["test_each_gets_its_own", "test_options",
                                  "test_waiting_connections_outlive_their_worker"])
@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_without_privileges(lab, name):
    """As in a container: a user namespace, no capability, a common seccomp filter."""
    done = lab.server(
        f"systemd-run -q --wait --pipe --collect --unit={UNIT} -p User=65534 -p PrivateUsers=yes "
        "-p NoNewPrivileges=yes -p CapabilityBoundingSet= -p PrivateDevices=yes "
        "-p 'SystemCallFilter=@system-service' "
        f"env {PRELOAD} {FOLDER}/test_kernel_backend {name} 2>&1", check=False)
    assert done.returncode == 0 and "1 test(s)." in done.stdout, done.stdout


@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_random_programs_do_the_same(lab):
    """Two of these once read SO_REUSEPORT as the library had set it."""
    done = lab.server(f"cd {FOLDER}; FSOCKET_BACKEND=kernel ./differ.sh "
                      "/usr/local/lib/libfsocket.so 1000350 10", check=False, limit=160)
    assert done.returncode == 0, done.stdout


# Two workers end with connections in their sockets, then one other waits.
LEFT_BEHIND = """
import os, select, signal, socket, time
here = ("127.0.0.1", 8089)
listener = socket.create_server(here, backlog=64)
listener.setblocking(False)


def serve(most):
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    served = 0
    while served < most and poll.poll(5):
        try:
            one = listener.accept()[0]
        except BlockingIOError:
            continue
        one.sendall(str(os.getpid()).encode())
        one.close()
        served += 1
    return served


def child():
    pid = os.fork()
    if not pid:
        serve(9999)
        os._exit(0)
    return pid


def connect(cpu):
    os.sched_setaffinity(0, {cpu})
    return socket.create_connection(here)


cpus = sorted(os.sched_getaffinity(0))[:2]
workers = {child(), child()}
while {int(connect(cpu).recv(9)) for cpu in cpus} != workers:
    pass
for pid in workers:
    os.kill(pid, signal.SIGSTOP)
waiting = [connect(cpu) for cpu in cpus * 2]
for pid in workers:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
os.sched_setaffinity(0, range(os.cpu_count()))
print(serve(len(waiting)))
"""


@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_left_behind(lab):
    """As after Apache's graceful restart: a worker left alone takes the others' connections."""
    done = lab.server(f"{PRELOAD} timeout 60 python3 -", stdin=LEFT_BEHIND, check=False)
    assert done.stdout.split() == ["4"], done


# A worker of an unmodified server, which answers each connection with a text.
WORKER = """
import os, select


def work(listener, text):
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        poll.poll()
        try:
            one = listener.accept()[0]
        except BlockingIOError:
            continue
        one.sendall(str(text()).encode())
        one.close()
"""
# A server of two workers, which runs its program anew at SIGUSR2, with its listener.
UPGRADED = WORKER + """
import signal, socket, subprocess, sys
if len(sys.argv) > 2:
    listener = socket.socket(fileno=int(sys.argv[2]))
else:
    listener = socket.create_server(("127.0.0.1", 8087), backlog=64)
listener.setblocking(False)
value = listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
workers = []
for _ in range(2):
    workers.append(os.fork())
    if not workers[-1]:
        work(listener, os.getpid)
signal.signal(signal.SIGUSR2, lambda *_: subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], sys.argv[1], str(listener.fileno())],
    pass_fds=[listener.fileno()]))
print(value, os.getpid(), *workers, flush=True)
while True:
    signal.pause()
"""
# Prints what SO_REUSEPORT reads in the new program, and by whom connections are answered that
# have waited for the old workers when all of the old server is killed.
UPGRADE = """
import os, signal, socket, subprocess, sys
everywhere = sorted(os.sched_getaffinity(0))
cpus = everywhere[:2]


def connect(cpu):
    os.sched_setaffinity(0, {cpu})
    return socket.create_connection(("127.0.0.1", 8087), timeout=20)


def answer(one):
    return int(one.recv(9))


def until_local(workers):
    right = 0
    while right < 20:
        for pid in workers:
            # The new workers get the CPUs that the old ones leave, of which some have two.
            cpu = min(os.sched_getaffinity(pid))
            local = answer(connect(cpu)) == pid and os.sched_getaffinity(pid) == {cpu}
            right = right + 1 if local else 0


server = subprocess.Popen(["env", *sys.argv[2:], "python3", "-c", sys.argv[1], sys.argv[1]],
                          stdout=subprocess.PIPE)
_, _, *old = map(int, server.stdout.readline().split())
until_local(old)
server.send_signal(signal.SIGUSR2)
value, master, *new = map(int, server.stdout.readline().split())
# Until both know of the others.
while {answer(connect(cpu)) for cpu in everywhere * 4}.isdisjoint(new):
    pass
for pid in old:
    os.kill(pid, signal.SIGSTOP)
waiting = [connect(cpu) for cpu in cpus * 2]
for pid in (server.pid, *old):
    os.kill(pid, signal.SIGKILL)
by_new = sum(answer(one) in new for one in waiting)
until_local(new)
print(value, by_new)
for pid in (master, *new):
    os.kill(pid, signal.SIGKILL)
"""


def test_upgrade(lab):
    """A program that has the listener of the one before takes over all, and nothing is lost."""
    done = lab.server(f"timeout 60 python3 - {shlex.quote(UPGRADED)} {PRELOAD}", stdin=UPGRADE,
                      check=False)
    assert done.stdout.split() == ["0", "4"], done


def test_in_a_container(lab):
    """An ordinary user's container with the engines' default profile: see container.py."""
    done = lab.server(
        f"cd /; FSOCKET_STEAL_AFTER_MS=100 setpriv --reuid=65534 --regid=65534 --clear-groups "
        f"timeout 200 {FOLDER}/container.py python3 {FOLDER}/contained.py", check=False, limit=220)
    assert done.returncode == 0, done
    seen = json.loads(done.stdout)
    # The profile refuses some calls by name, and answers to calls of which it has no rule.
    assert seen["errors"] == {"kcmp": errno.EPERM, "bpf": errno.EPERM,
                              "io_uring_setup": errno.ENOSYS}
    assert seen["status"] == {"Uid": "1000", "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    assert [one["effect"] for one in seen["said"]] == [True], seen
    # The program's own and eight beside it, one for each worker.
    assert seen["sockets"] == 9
    for when, count in ("first", 1600), ("after a kill", 400):
        # By chance an eighth is local.
        assert seen[when]["failed"] == 0 and seen[when]["local"] > count / 2, seen
    # Under a filter the library takes nothing over from another program.
    assert seen["after an upgrade"] == {"failed": 0, "local": 0, "sockets": 1, "workers": 0}


def start(lab, environment, command):
    assignments = " ".join(f"-E {one}" for one in environment.split())
    lab.server(f"systemctl reset-failed {UNIT} 2> /dev/null; systemd-run -q --collect "
               f"--unit={UNIT} -p LimitNOFILE=65536 {assignments} {command}")
    deadline = time.monotonic() + 30
    while not lab.server("ss -Hltn sport = :80", check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def stop(lab):
    lab.server(f"systemctl stop {UNIT}")


def load(lab, requests):
    return lab.start_load(f"ulimit -n 8192; ab -q -r -n {requests} -c 100 http://10.66.0.1/ 2>&1")


def figures(process):
    output, _ = process.communicate(timeout=120)
    found = [re.search(rf"^{name} requests: +(\d+)", output, re.M)
             for name in ("Complete", "Failed")]
    assert all(found), output
    return tuple(int(one[1]) for one in found)


def cores(lab):
    """The cores on which the workers may run, sorted, as taskset prints them."""
    return sorted(lab.server("for p in $(pgrep -P $(cat /run/fsbench-kernel.pid)); do "
                             "taskset -cp $p | sed 's/.*: //'; done").stdout.split())


def listening(lab):
    """The number of sockets that listen at port 80."""
    return lab.server("ss -Hltn sport = :80").stdout.count("LISTEN")


@pytest.mark.parametrize("lab, migrate", [(KERNELS[0], 0), *((one, 1) for one in KERNELS)],
                         indirect=["lab"], scope="session")
def test_nginx(lab, migrate):
    """Each worker has a core; a reload, and one to fewer workers, costs no connection."""
    lab.server("cat > /run/fsbench-kernel.conf; "
               f"sysctl -qw net.ipv4.tcp_migrate_req={migrate}", stdin=NGINX)
    start(lab, PRELOAD, "nginx -c /run/fsbench-kernel.conf -g 'daemon off;'")
    try:
        assert figures(load(lab, 3000)) == (3000, 0)
        each_its_own = [str(cpu) for cpu in range(8)]
        eventually(lambda: cores(lab) == each_its_own)
        # The program's own and eight members; no other program may bind.
        eventually(lambda: listening(lab) == 9)
        under = load(lab, 6000)
        for count in (2, 8):
            time.sleep(1)
            lab.server("sed -i 's/^worker_processes .*/worker_processes "
                       f"{count};/' /run/fsbench-kernel.conf; "
                       "kill -HUP $(cat /run/fsbench-kernel.pid)")
        assert figures(under) == (6000, 0)
        # A worker is killed while all are idle, and its successor starts.
        eventually(lambda: len(cores(lab)) == 8)
        lab.server("kill -9 $(pgrep -P $(cat /run/fsbench-kernel.pid) | head -1)")
        assert figures(load(lab, 3000)) == (3000, 0)
        eventually(lambda: cores(lab) == each_its_own)
    finally:
        stop(lab)
        lab.server("sysctl -qw net.ipv4.tcp_migrate_req=0")


def test_killed_under_load(lab):
    """Only what a killed worker had accepted is lost: see killed.py."""
    lab.server("cat > /run/fsbench-kernel.conf; sysctl -qw net.ipv4.tcp_migrate_req=1",
               stdin=NGINX)
    # Connections wait for a stopped worker long enough to be seen there.
    start(lab, f"{PRELOAD} FSOCKET_STEAL_AFTER_MS=50",
          "nginx -c /run/fsbench-kernel.conf -g 'daemon off;'")
    try:
        done = lab.server(f"timeout 160 python3 {FOLDER}/killed.py "
                          "$(cat /run/fsbench-kernel.pid) 80 20", limit=180)
    finally:
        stop(lab)
        lab.server("sysctl -qw net.ipv4.tcp_migrate_req=0")
    seen = json.loads(done.stdout)
    assert seen["kills"] >= 20 and seen["lost"] == 0, seen


# Whether a connection that waits for a worker is served by it, when that one is at work, and
# when it sleeps, for seven times as long as the others' patience: these take the connection after
# three and a half times, and from one at work after ten times.
AT_WORK = r"""
import os, select, socket, time
here = ("127.0.0.1", 8088)
listener = socket.create_server(here, backlog=64)
listener.setblocking(False)
cpus = sorted(os.sched_getaffinity(0))[:2]


def worker(letter):
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    while True:
        for _ in poll.poll():
            try:
                one = listener.accept()[0]
            except BlockingIOError:
                continue
            one.setblocking(True)
            order = one.recv(1)
            end = time.monotonic() + 3.5
            if order == b"s":
                time.sleep(3.5)
            while order == b"w" and time.monotonic() < end:
                pass
            one.sendall(letter)
            one.close()


for letter in (b"0", b"1"):
    if not os.fork():
        worker(letter)


def connect(cpu, order):
    os.sched_setaffinity(0, {cpu})
    one = socket.create_connection(here)
    one.sendall(order)
    return one


def ask(cpu):
    return connect(cpu, b"?").recv(1)


# Wait until each connection is served on the core where it arrives.
while True:
    home = ask(cpus[0])
    if {ask(cpus[0]) for _ in range(5)} == {home} != {ask(cpus[1]) for _ in range(5)}:
        break
for order in (b"w", b"s"):
    busy = connect(cpus[0], order)
    time.sleep(0.2)
    waiting = connect(cpus[0], b"?")
    # The other worker was just busy, and looks after a while whether others are late.
    ask(cpus[1])
    print(waiting.recv(1) == home, flush=True)
    busy.recv(1)
    time.sleep(0.5)
os.killpg(0, 9)
"""


@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_worker_at_work(lab):
    """Connections that a running worker will accept by itself are not taken from it so soon."""
    done = lab.server(f"{PRELOAD} FSOCKET_STEAL_AFTER_MS=500 setsid -w timeout 60 python3 -",
                      stdin=AT_WORK, check=False)
    assert done.stdout.split() == ["True", "False"], done.stdout + done.stderr


@pytest.mark.parametrize("lab", KERNELS[:1], indirect=True, scope="session")
def test_backend_is_asked_for(lab):
    """Without FSOCKET_BACKEND the library prints that it does nothing, and does nothing."""
    start(lab, "LD_PRELOAD=/usr/local/lib/libfsocket.so",
          "/usr/local/bin/fsbench-server -w 2")
    try:
        assert listening(lab) == 1
        # The journal has it a little later.
        eventually(lambda: "running without Fastsocket" in
                   lab.server(f"journalctl -n 5 -u {UNIT}").stdout)
    finally:
        stop(lab)
    start(lab, PRELOAD.replace("kernel", "auto"), "/usr/local/bin/fsbench-server -w 2")
    try:
        assert figures(load(lab, 1000)) == (1000, 0)
        eventually(lambda: listening(lab) == 3)
    finally:
        stop(lab)
