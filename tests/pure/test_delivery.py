# SPDX-License-Identifier: GPL-2.0-only
"""fsocketctl doctor on made-up hosts: the packets of cores without a worker, and the remedy."""
import os
import subprocess

import pytest

from test_fsocketctl_alone import LIBRARY, SANITIZE

# Arguments: a folder with sys and proc of a host, its online CPUs, those of workers, and whether
# all of these are known.
MAIN = r"""
#include <stdarg.h>
#include <stdlib.h>
#include "ctl.h"

static cpu_set_t workers, online;
static const char *root;
static bool known;

bool doctor_look_at_servers(void) { return true; }
void doctor_worker_cpus(cpu_set_t *set) { *set = workers; }
bool doctor_worker_cpus_known(void) { return known; }

static void say(const char *format, va_list args)
{
    vprintf(format, args);
    putchar('\n');
}

void doctor_finding(const char *remedy, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(format, args);
    va_end(args);
    puts(remedy);
}

void doctor_skip(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    printf("skipped: ");
    say(format, args);
    va_end(args);
}

void __wrap_ctl_cpus_online(cpu_set_t *set) { *set = online; }

char *__wrap_ctl_readf(const char *format, ...)
{
    char *path, *own, *text;
    va_list args;

    va_start(args, format);
    if (vasprintf(&path, format, args) < 0)
        abort();
    va_end(args);
    own = ctl_format("%s%s", root, path);
    text = ctl_read(own);
    free(path);
    free(own);
    return text;
}

DIR *__real_ctl_opendir(const char *path);
DIR *__wrap_ctl_opendir(const char *path)
{
    char *own = ctl_format("%s%s", root, path);
    DIR *dir = __real_ctl_opendir(own);

    free(own);
    return dir;
}

int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode)
{
    char *own = ctl_format("%s%s", root, path);
    int result = __real_access(own, mode);

    free(own);
    return result;
}

int main(int argc, char **argv)
{
    (void)argc;
    root = argv[1];
    ctl_cpu_list(&online, argv[2]);
    ctl_cpu_list(&workers, argv[3]);
    known = argv[4][0] == '1';
    doctor_find_nics();
    doctor_begin_network();
    doctor_queues();
    doctor_interrupts();
    doctor_rps();
    doctor_delivery();
    doctor_node();
    doctor_siblings();
    printf("%d cores receive\n", doctor_receive_queues());
    return 0;
}
"""
WRAPPED = ("access", "ctl_opendir", "ctl_readf", "ctl_cpus_online")


@pytest.fixture(scope="module", name="program")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delivery")
    (folder / "main.c").write_text(MAIN)
    # It ends soon, so memory that it still has then is no leak.
    subprocess.run(["gcc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I", LIBRARY, *SANITIZE,
                    *(f"-Wl,--wrap={name}" for name in WRAPPED), "-o", folder / "main",
                    folder / "main.c",
                    *(LIBRARY / f"ctl_{part}.c" for part in (
                        "delivery", "network", "nics", "topology", "util", "json"))], check=True)
    return folder / "main"


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(name="doctor")
def made_host(program, tmp_path):
    """Returns what the checks print.

    queues: of each its interrupt's core, or None, and the mask of RPS; nodes: each one's cores;
    near: the NIC's node, of its parent if it is virtio; threads: a list of the threads of each
    core.
    """
    def ask(workers, queues, nodes=(), known=True, online="0-7", near=None, threads=(),
            virtio=False):
        host = tmp_path / str(len(list(tmp_path.iterdir())))
        nic = host / "sys/class/net/eth9"
        put(nic / "operstate", "up\n")
        for number, (core, mask) in enumerate(queues):
            put(nic / f"device/msi_irqs/{30 + number}")
            put(nic / f"queues/rx-{number}/rps_cpus", f"{mask}\n")
            (host / f"proc/irq/{30 + number}/virtio3-input.{number}").mkdir(parents=True)
            if core is not None:
                put(host / f"proc/irq/{30 + number}/smp_affinity_list", f"{core}\n")
        for node, cores in enumerate(nodes):
            for core in cores:
                (host / f"sys/devices/system/cpu/cpu{core}/node{node}").mkdir(parents=True)
        if near is not None:
            put(nic / ("numa_node" if virtio else "device/numa_node"), f"{near}\n")
        for core in threads:
            for cpu in core:
                put(host / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list",
                    f"{','.join(map(str, core))}\n")
        done = subprocess.run([program, host, online, workers, str(int(known))],
                              capture_output=True, text=True, timeout=30, check=False,
                              env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"})
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.splitlines()
    return ask


def commands(line):
    """{queue: mask} of a remedy."""
    found = {}
    for command in line.split("; "):
        echo, mask, to, path = command.split(" ")
        assert (echo, to) == ("echo", ">")
        queue = path.removeprefix("/sys/class/net/eth9/queues/rx-").removesuffix("/rps_cpus")
        found[int(queue)] = mask
    return found


def queues(number, **moved):
    """Queues, each with its interrupt on the core of its number."""
    return [(queue, moved.get(f"q{queue}", "00")) for queue in range(number)]


RPS = "eth9: RPS moves the packets of {} to other cores, though each core has a queue"


def test_cores_without_a_worker(doctor):
    text, remedy, receive = doctor("0-3", queues(8))
    assert text.startswith("eth9 has receive queues on 8 cores, and workers are on 4: packets of "
                           "rx-4, rx-5, rx-6, rx-7 are handled on cores without a worker, ")
    assert commands(remedy) == {4: "1", 5: "2", 6: "4", 7: "8"}
    assert receive == "8 cores receive"


def test_the_remedy_ends_the_finding(doctor):
    assert doctor("0-3", queues(8, q4="01", q5="02", q6="04", q7="08")) == ["4 cores receive"]
    # Several workers' cores are as well, but no other one, and no queue may be left.
    assert doctor("0-3", queues(8, q4="f", q5="f", q6="f", q7="9")) == ["4 cores receive"]
    rps, _, text, remedy, _ = doctor("0-3", queues(8, q4="01", q5="1e", q7="08"))
    assert rps == RPS.format("1 receive queue") and "packets of rx-5, rx-6 are" in text
    assert commands(remedy) == {5: "2", 6: "4"}


def test_too_few_queues(doctor):
    """The cores with workers are those that need packets."""
    few = "eth9 has 4 receive queues for 8 cores: the other cores get no connections of their own"
    assert doctor("", queues(4))[0] == few
    found = doctor("0,1", queues(4))
    assert found[0] == few and commands(found[3]) == {2: "1", 3: "2"}
    assert doctor("0,1", queues(4, q2="1", q3="2")) == ["2 cores receive"]
    # With a worker on each core, all queues have to be shared by all cores.
    assert not doctor("0-7", queues(2, q0="ff", q1="ff"))[:-1]
    assert doctor("0-7", queues(2, q0="ff", q1="7f"))[0] == few.replace("4 rec", "2 rec")
    # RPS to all cores takes packets away from a core with a worker, too.
    text, remedy, _ = doctor("0,1", queues(4, q0="ff", q1="ff", q2="ff", q3="ff"))
    assert "packets of rx-0, rx-1, rx-2, rx-3 are handled" in text
    assert commands(remedy) == {0: "0", 1: "0", 2: "1", 3: "2"}


@pytest.mark.parametrize("workers", ["0-7", "0-5", ""])
def test_packets_that_leave_a_worker(doctor, workers):
    """Each core that loses packets has a worker, or nothing is known of any."""
    assert doctor(workers, queues(8, q2="1", q3="1", q6="1" if workers == "0-5" else "0",
                                  q7="2" if workers == "0-5" else "0"))[0] == \
        RPS.format("2 receive queues")


@pytest.mark.parametrize("workers, of", [
    ("0-7", 8),
    # As many workers as queues: their interrupts are what should move.
    ("4-7", 4), ("1-4", 4),
])
def test_enough_workers(doctor, workers, of):
    assert "handled on cores" not in " ".join(doctor(workers, queues(of)))


def test_cores_beyond_the_first_32(doctor):
    remedy = doctor("33,39", [(0, "0"), (1, "0"), (33, "0")], online="0,1,33,39")[-2]
    assert commands(remedy) == {0: "80,00000000", 1: "2,00000000"}


def test_the_node_comes_first(doctor):
    nodes = [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert commands(doctor("0,1,4", queues(8), nodes)[1]) == {
        2: "1", 3: "2", 5: "10", 6: "10", 7: "10"}
    # No worker is near: all of them take turns.
    assert commands(doctor("0,1", queues(8), nodes)[1]) == {
        2: "1", 3: "2", 4: "1", 5: "2", 6: "1", 7: "2"}


def test_what_is_not_known(doctor):
    assert doctor("0-3", queues(8), known=False)[0].startswith("skipped: not all workers have a ")
    # It does not matter where nothing would be said.
    assert doctor("0-7", queues(8), known=False) == ["8 cores receive"]
    found = doctor("0-3", [*queues(7), (None, "0")])
    assert found == ["skipped: eth9: which core the interrupt of each receive queue hits is not "
                     "known", "8 cores receive"]
