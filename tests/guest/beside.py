#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""
Traffic through all parts of the module, beside other work of a host.

Usage, in the guest, as root: beside.py SCENARIO

A client's namespace, a router's and a server's, in a row, so that packets are forwarded
too. Client and server run under the library; every connection carries random bytes
there and back, by IPv4 and IPv6 in turn. The program fails with a sentence if a byte is
missing or wrong, or if the module's parts did not act.
"""
import contextlib
import ctypes
import errno
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

LIBRARY = "/usr/local/lib/libfsocket.so"
PARAMETERS = "/sys/module/fastsocket/parameters/"
SWITCHES = ["enable_local_established", "enable_direct_tcp", "enable_rps_framework",
            "enable_receive_flow_deliver", "enable_receive_cpu_selection", "enable_skb_pool"]
CLIENT, ROUTER, SERVER = NAMESPACES = ["fsb-client", "fsb-router", "fsb-server"]
SERVED = ["10.77.2.2", "fd77:2::2"]
PORT = 8080
WORKERS = CLIENTS = 4
SECONDS = 2
# The least number of connections that a client makes, also where it is slow.
LEAST = 11
# The modules that the scenarios' rules load.
RULES = ["nft_masq", "nft_redir", "nft_chain_nat", "nft_ct", "nft_tproxy", "nft_socket",
         # modprobe -r leaves what these have used loaded where it is still busy, and succeeds.
         "nf_nat", "nf_conntrack"]
# More than a packet, so that GSO and GRO have something to do; less than a send buffer.
SIZE = 20000


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# --- the two ends -----------------------------------------------------------

def encrypt(conn):
    """kTLS with a key that both ends know."""
    key = struct.pack("HH", 0x0303, 51) + bytes(range(36))
    conn.setsockopt(socket.IPPROTO_TCP, 31, b"tls")
    for direction in (1, 2):
        conn.setsockopt(282, direction, key)


def receive(conn, size):
    got = bytearray()
    while len(got) < size:
        part = conn.recv(size - len(got))
        if not part:
            raise ConnectionError(f"the connection ended after {len(got)} of {size} bytes")
        got += part
    return bytes(got)


def work(listeners, ktls):
    """A worker: one connection after the other, whole."""
    poll = select.epoll()
    for listener in listeners:
        listener.setblocking(False)
        poll.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poll.poll():
            listener = next(s for s in listeners if s.fileno() == fd)
            with contextlib.suppress(OSError):
                conn, _ = listener.accept()
                with conn:
                    conn.settimeout(20)
                    if ktls:
                        encrypt(conn)
                    conn.sendall(receive(conn, SIZE))


def serve(option):
    listeners = []
    for address in ("0.0.0.0", "::"):
        family = family_of(address)
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if option == "transparent":
            level, name = {socket.AF_INET: (socket.SOL_IP, 19),
                           socket.AF_INET6: (socket.IPPROTO_IPV6, 75)}[family]
            listener.setsockopt(level, name, 1)
        listener.bind((address, PORT))
        listener.listen(512)
        listeners.append(listener)
    for cpu in range(WORKERS):
        if not os.fork():
            os.sched_setaffinity(0, {cpu})
            work(listeners, option == "ktls")
    signal.pause()


def talk(port, option, seconds):
    """Runs clients; exit status 0 if all of them got back the bytes that they had sent."""
    def client(cpu):
        os.sched_setaffinity(0, {cpu})
        payload = random.Random(cpu).randbytes(SIZE)
        until, done = time.monotonic() + seconds, 0
        for address in itertools.cycle(SERVED):
            if time.monotonic() > until and done >= LEAST:
                return
            with socket.socket(family_of(address)) as conn:
                conn.settimeout(20)
                try:
                    conn.connect((address, port))
                except OSError as error:
                    # The router reports this while a link is down.
                    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                        continue
                    raise
                if option == "ktls":
                    encrypt(conn)
                # The server echoes when it has everything.
                conn.sendall(payload)
                if receive(conn, SIZE) != payload:
                    raise ConnectionError("other bytes came back than were sent")
                done += 1

    # The library does nothing for programs that never listen.
    listener = socket.create_server(("", PORT))
    children = []
    for cpu in range(CLIENTS):
        pid = os.fork()
        if not pid:
            try:
                client(cpu)
            except OSError as error:
                print(f"client {cpu}: {error!r}", flush=True)
                os._exit(1)
            os._exit(0)
        children.append(pid)
    status = max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
    listener.close()
    sys.exit(status)


# The processes that were started and not killed.
started = []


def start(namespace, *args, library=True):
    preload = ["env", f"LD_PRELOAD={LIBRARY}", "FSOCKET_REQUIRED=1"] if library else []
    started.append(subprocess.Popen(["ip", "netns", "exec", namespace, *preload, sys.executable,
                                     __file__, *map(str, args)], start_new_session=True))
    return started[-1]


def kill(process):
    """Also kills what a process has started that has ended itself."""
    started.remove(process)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# --- the network --------------------------------------------------------------

def shell(command, stdin=None):
    subprocess.run(["sh", "-ec", command], input=stdin, text=True, check=True)


def make_network():
    remove_network()
    for namespace in NAMESPACES:
        shell(f"ip netns add {namespace}")
    shell("ip -batch -", f"""
        link add left netns {CLIENT} type veth peer left netns {ROUTER}
        link add right netns {SERVER} type veth peer right netns {ROUTER}
    """)
    for namespace, link, net, host in ((CLIENT, "left", 1, 2), (ROUTER, "left", 1, 1),
                                       (ROUTER, "right", 2, 1), (SERVER, "right", 2, 2)):
        shell(f"ip -n {namespace} -batch -", f"""
            link set lo up
            link set {link} up
            address add 10.77.{net}.{host}/24 dev {link}
            address add fd77:{net}::{host}/64 dev {link} nodad
        """)
    for namespace, net in ((CLIENT, 1), (SERVER, 2)):
        shell(f"ip -n {namespace} route add default via 10.77.{net}.1;"
              f"ip -n {namespace} route add default via fd77:{net}::1")
    shell(f"ip netns exec {ROUTER} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")


def remove_network():
    for namespace in NAMESPACES:
        if os.path.exists(f"/run/netns/{namespace}"):
            shell(f"ip netns del {namespace}")


def counters(namespace):
    """The sums of the module's counters there."""
    text = subprocess.run(["ip", "netns", "exec", namespace, "cat", "/proc/net/fastsocket"],
                          check=True, capture_output=True, text=True).stdout
    header, *rows = (line.split() for line in text.splitlines())
    return {name: sum(int(row[column]) for row in rows)
            for column, name in enumerate(header) if column}


def switch(value):
    for name in SWITCHES if value else reversed(SWITCHES):
        with open(PARAMETERS + name, "w", encoding="ascii") as file:
            file.write(str(value * (3 if name == "enable_skb_pool" else 1)))
    with open(PARAMETERS + "enable_socket_pool_size", "w", encoding="ascii") as file:
        file.write(value and "64" or "0")


@contextlib.contextmanager
def repeated(action, pause):
    """Does @action again and again in the background."""
    over = threading.Event()

    def loop():
        while not over.wait(pause):
            action()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def exchange(port=PORT, option="", host=SERVER, seconds=SECONDS,
             beside=contextlib.nullcontext()):
    """A server and its clients; @host is where the server runs."""
    server = start(host, "serve", option)
    try:
        deadline = time.monotonic() + 30
        # Both families, each worker.
        while counters(host)["spawn"] < 2 * WORKERS:
            assert time.monotonic() < deadline, "the server did not spawn local listeners"
            assert server.poll() is None, "the server did not start"
            time.sleep(0.1)
        with beside:
            clients = start(CLIENT, "talk", port, option, seconds)
            status = clients.wait(timeout=60 + seconds)
        assert status == 0, "a client failed"
        passive, active = counters(host), counters(CLIENT)
    finally:
        kill(server)
    accepted = sum(passive[f"accept_{where}"] for where in ("local", "global", "remote", "covered"))
    assert accepted >= LEAST * CLIENTS, f"only {accepted} connections"
    for name, value in {"accept_local": passive["accept_local"],
                        "established_hit": passive["established_hit"],
                        "rfd_port": active["rfd_port"],
                        "steered for the client": active["steer_remote"] + active["steer_local"],
                        }.items():
        assert value > 0, f"{name} is 0 after {accepted} connections"
    print(f"{accepted} connections")


# --- other work of the host ----------------------------------------------------------

def nat():
    """Connection tracking and address translation, of both kinds."""
    shell(f"ip netns exec {SERVER} nft -f -", f"""
        table inet t {{
            chain pre {{
                type nat hook prerouting priority dstnat
                tcp dport 8081 redirect to :{PORT}
            }}
            chain in {{ type filter hook prerouting priority 0; ct state invalid drop; }}
        }}""")
    shell(f"ip netns exec {ROUTER} nft -f -", """
        table inet t {
            chain post { type nat hook postrouting priority srcnat; oifname "right" masquerade; }
        }""")
    exchange(port=8081)


def tproxy():
    """Packets that have their socket assigned before TCP sees them."""
    shell(f"ip netns exec {ROUTER} nft -f -", f"""
        table inet t {{
            chain pre {{
                type filter hook prerouting priority mangle;
                iifname "left" socket transparent 1 meta mark set 1 accept
                iifname "left" meta l4proto tcp tproxy to :{PORT} meta mark set 1 accept
            }}
        }}""")
    for ip in ("ip -4", "ip -6"):
        shell(f"{ip} -n {ROUTER} rule add fwmark 1 table 100;"
              f"{ip} -n {ROUTER} route add local default dev lo table 100")
    exchange(port=80, option="transparent", host=ROUTER)


def ktls():
    exchange(option="ktls")


def sniffed():
    """Packet and raw sockets that see all of it."""
    stop = threading.Event()
    seen = dict.fromkeys(("packet", "raw"), 0)

    def listen(name, sock):
        sock.settimeout(0.1)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                seen[name] += len(sock.recv(65536)) > 0

    with entered(SERVER):
        sockets = {"packet": socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)),
                   "raw": socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)}
    threads = [threading.Thread(target=listen, args=item) for item in sockets.items()]
    for thread in threads:
        thread.start()
    try:
        exchange()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert min(seen.values()) > 100, seen


@contextlib.contextmanager
def entered(namespace):
    """Sockets that are opened in this block belong to the namespace."""
    with open("/proc/self/ns/net", "rb") as home, open(f"/run/netns/{namespace}", "rb") as other:
        setns(other)
        try:
            yield
        finally:
            setns(home)


def setns(file):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file.fileno(), 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def junk(rng):
    """A frame's payload and type: a packet of TCP with something wrong."""
    tcp = struct.pack("!HHIIBBHHH", rng.choice((40000, PORT, rng.randrange(65536))),
                      rng.choice((PORT, 0, rng.randrange(65536))), rng.randrange(1 << 32),
                      rng.randrange(1 << 32), rng.choice((0x50, 0x00, 0x40, 0xf0, 0x80)),
                      rng.randrange(256), 1024, 0, 0) + rng.randbytes(rng.randrange(60))
    source = rng.choice((bytes([10, 77, 1, 2]), bytes([127, 0, 0, 1]), bytes([224, 0, 0, 1]),
                         bytes([10, 77, 2, 2]), bytes(4), b"\xff" * 4))
    if rng.randrange(2):
        length = rng.choice((20 + len(tcp), 20, 0, 19, 65535))
        header = bytearray(struct.pack(
            "!BBHHHBBH4s4s", rng.choice((0x45, 0x45, 0x45, 0x46, 0x4f, 0x44, 0x40, 0x65)), 0,
            length, rng.randrange(4),
            # Fragments: first and later ones, overlapping, of the last 8 bytes there can be.
            rng.choice((0, 0, 0x4000, 0x2000, 0x2001, 1, 2, 0x3fff, 0x1fff)),
            rng.choice((64, 1, 0)), 6, 0, source, socket.inet_aton(SERVED[0])))
        total = sum(struct.unpack("!10H", header))
        total = (total & 0xffff) + (total >> 16)
        header[10:12] = struct.pack("!H", ~(total + (total >> 16)) & 0xffff)
        packet, kind = bytes(header) + tcp, 0x0800
    else:
        # None, fragment, hop-by-hop, routing, destination options, authentication, of any length.
        extension = rng.choice((b"", bytes([6, 0]) + rng.randbytes(6),
                                bytes([6, rng.choice((0, 255))]) + rng.randbytes(6)))
        following = rng.choice((44, 0, 43, 60, 51)) if extension else 6
        packet = struct.pack(
            "!IHBB16s16s", 6 << 28, rng.choice((len(extension + tcp), 0, 3, 65535)), following, 64,
            rng.choice((socket.inet_pton(socket.AF_INET6, "fd77:1::2"), bytes(15) + b"\1",
                        b"\xff" * 16)),
            socket.inet_pton(socket.AF_INET6, SERVED[1])) + extension + tcp
        kind = 0x86dd
    if not rng.randrange(3):
        packet = packet[:rng.randrange(1, len(packet))]
    if not rng.randrange(8):
        packet, kind = struct.pack("!HH", 1, kind) + packet, 0x8100
    return packet, kind


def malformed():
    """Truncated, overlapping, contradictory and martian packets, on the server's own link."""
    rng = random.Random(1)
    link = json.loads(subprocess.run(["ip", "-j", "-n", SERVER, "link", "show", "right"],
                                     check=True, capture_output=True, text=True).stdout)
    target = bytes.fromhex(link[0]["address"].replace(":", ""))
    with entered(ROUTER):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        wire.bind(("right", 0))
    sent = 0

    def flood():
        nonlocal sent
        for _ in range(100):
            packet, kind = junk(rng)
            with contextlib.suppress(OSError):
                sent += wire.send(target + bytes(6) + struct.pack("!H", kind) + packet) > 0

    with wire:
        exchange(beside=repeated(flood, 0.01))
    assert sent > 1000, f"only {sent} packets"


def link_down():
    """The link between router and server goes down and up, three times."""
    times = iter(range(3))

    def flap():
        if next(times, None) is not None:
            shell(f"ip -n {ROUTER} link set right down; ip -n {ROUTER} link set right up;"
                  f"ip -n {ROUTER} address replace fd77:2::1/64 dev right nodad")

    exchange(seconds=8, beside=repeated(flap, 1))


def deleted():
    """Namespaces that end amid their connections."""
    for _ in range(2):
        make_network()
        server = start(SERVER, "serve", "")
        while counters(SERVER)["spawn"] < 2 * WORKERS:
            assert server.poll() is None, "the server did not start"
            time.sleep(0.1)
        # They talk for longer than a slow guest takes to look at the counters.
        clients = start(CLIENT, "talk", PORT, "", 60)
        while counters(SERVER)["accept_local"] < 20:
            assert clients.poll() is None, "the clients did not start"
            time.sleep(0.1)
        kill(server)
        kill(clients)
        remove_network()


SCENARIOS = [nat, tproxy, ktls, sniffed, malformed, link_down, deleted]


def main(name):
    scenario = next(s for s in SCENARIOS if s.__name__ == name)
    # timeout(1) ends this so; what is below is put back all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("out of time"))
    make_network()
    switch(True)
    try:
        scenario()
    finally:
        # What goes on would keep the module, and fail all tests after this one.
        while started:
            kill(started[-1])
        switch(False)
        remove_network()
        # A namespace ends a moment later, and connection tracking with it, which would be a finding
        # of fsocketctl doctor in other tests.
        deadline = time.monotonic() + 60
        while subprocess.run(["modprobe", "-qr", *RULES], check=False).returncode:
            assert time.monotonic() < deadline, "connection tracking cannot be unloaded"
            time.sleep(0.2)


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "serve":
        serve(*rest)
    elif command == "talk":
        talk(int(rest[0]), rest[1], int(rest[2]))
    else:
        main(command)
