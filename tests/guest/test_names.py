# SPDX-License-Identifier: GPL-2.0-only
"""counting/names.c prints the right object for addresses whose object is known."""
import csv
import json
import shlex
import subprocess

import pytest

from conftest import LAB

# Prints addresses that are known from other sources. The kernel shows those of sockets to root if
# kptr_restrict is 1; the script makes a port with a listener, a connection and a TIME_WAIT.
ADDRESSES = r"""
import json, socket, struct, time
symbols = {}
for line in open("/proc/kallsyms"):
    address, _, name = line.split()[:3]
    symbols.setdefault(name, int(address, 16))
core = open("/proc/kcore", "rb", buffering=0)
header = core.read(64)
offset, number = struct.unpack_from("<Q", header, 32)[0], struct.unpack_from("<H", header, 56)[0]
core.seek(offset)
parts = [struct.unpack("<IIQQQQQQ", core.read(56)) for _ in range(number)]
def value(address):
    for kind, _, offset, begin, _, _, size, _ in parts:
        if kind == 1 and begin <= address < begin + size:
            core.seek(offset + address - begin)
            return struct.unpack("<Q", core.read(8))[0]
own = value(symbols["__per_cpu_offset"] + 8 * 3)
known = {"variable": symbols["tcp_hashinfo"], "later": symbols["init_net"] + 0x148,
         "per_cpu": symbols["runqueues"] + own, "later_per_cpu": symbols["runqueues"] + own + 0x148,
         "table": value(symbols["tcp_hashinfo"]),
         # The image's memory by its other address.
         "page": (value(symbols["page_offset_base"]) + symbols["_text"] - 0xffffffff80000000
                  + value(symbols["phys_base"])) % 2 ** 64,
         "user": 0x7fff00001000}
# Tests before this one may have filled the table of TIME_WAIT.
room = "/proc/sys/net/ipv4/tcp_max_tw_buckets"
usual = open(room).read()
open(room, "w").write("1000000")
listener = socket.create_server(("127.0.0.1", 7391))
ends = [(socket.create_connection(("127.0.0.1", 7391)), listener.accept()[0]) for _ in range(2)]
ends[0][0].close()
ends[0][1].close()
restrict = "/proc/sys/kernel/kptr_restrict"
before = open(restrict).read()
open(restrict, "w").write("1")
# Until both packets that end the first connection have been handled.
deadline = time.monotonic() + 30
while "state_06" not in known and time.monotonic() < deadline:
    for words in map(str.split, open("/proc/net/tcp").readlines()[1:]):
        if words[1].endswith(":1CDF") or words[2].endswith(":1CDF"):
            known["state_" + words[3]] = int(words[11], 16)
open(restrict, "w").write(before)
open(room, "w").write(usual)
print(json.dumps(known))
input()
"""


@pytest.fixture(name="named", scope="module")
def names_of_known_addresses(lab):
    """{what is known of an address: the row that says what is there}; the sockets are open."""
    with subprocess.Popen([*lab.server_argv, f"python3 -c {shlex.quote(ADDRESSES)}"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        known = json.loads(holder.stdout.readline())
        # A second part of a socket, in another line of it.
        known["in_socket"] = known["state_0A"] + 0x88
        done = subprocess.run([LAB, "count", "names"], text=True, capture_output=True, timeout=120,
                              check=False, input="".join(f"{one:x}\n" for one in known.values()))
        holder.communicate("\n")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [int(row["address"], 16) for row in rows] == list(known.values())
    return dict(zip(known, rows))


def told(row):
    return row["kind"], row["what"], row["cpu"]


def test_variables(named):
    assert told(named["variable"]) == ("variable", "tcp_hashinfo+0x0", "")
    assert named["variable"]["member"] == "inet_hashinfo.ehash"
    # The beginning of the line in it.
    assert told(named["later"]) == ("variable", "init_net+0x140", "")
    assert named["later"]["member"].count(".") == 1


def test_per_cpu_variables(named):
    assert told(named["per_cpu"]) == ("per-CPU variable", "runqueues+0x0", "3")
    assert named["per_cpu"]["member"] == "rq.__lock"
    assert told(named["later_per_cpu"]) == ("per-CPU variable", "runqueues+0x140", "3")


def test_hash_table(named):
    assert told(named["table"]) == ("array", "tcp_hashinfo.ehash[]", "")
    assert named["table"]["member"] == "inet_ehash_bucket.chain"


def test_sockets(named):
    """A listener, a connection and a connection in TIME_WAIT, by their caches."""
    for state, cache in (("0A", "TCP"), ("01", "TCP"), ("06", "tw_sock_TCP")):
        assert told(named[f"state_{state}"]) == ("slab", f"{cache}+0x0", "")
        assert named[f"state_{state}"]["member"].startswith("sock_common.")
    assert told(named["in_socket"]) == ("slab", "TCP+0x80", "")
    assert named["in_socket"]["member"].startswith("sock")


def test_nothing_is_guessed(named):
    assert told(named["page"]) == ("page", "", "")
    assert told(named["user"]) == ("unknown", "", "")


def test_no_address(lab):
    done = subprocess.run([LAB, "count", "names"], text=True, capture_output=True, timeout=120,
                          check=False, input="tcp_sock\n")
    assert done.returncode != 0
    assert "tcp_sock: not an address: give hexadecimal digits" in done.stderr
