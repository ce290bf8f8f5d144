# SPDX-License-Identifier: GPL-2.0-only
"""Functions that tests of fsocketctl share: its answers, and servers in units of systemd."""
import contextlib
import json
import time

PARAMETERS = "/sys/module/fastsocket/parameters"
SERVER = "/usr/local/bin/fsbench-server"
PORT = 8081


def ctl(lab, arguments, status=0):
    """The output of `fsocketctl ARGUMENTS --json`."""
    done = lab.server(f"fsocketctl {arguments} --json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def eventually(condition, limit=60):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


class Unit:
    """A command in a transient unit of the server host."""

    def __init__(self, lab, name, command, preload=True):
        self.lab, self.name = lab, f"fsbench-{name}"
        environment = "-E LD_PRELOAD=/usr/local/lib/libfsocket.so" if preload else ""
        lab.server(f"systemctl stop {self.name} 2> /dev/null; systemd-run -q --collect "
                   f"--unit={self.name} -p LimitNOFILE=65536 {environment} {command}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.server(f"systemctl stop {self.name}", check=False)

    def main(self):
        return int(self.lab.server(f"systemctl show -P MainPID {self.name}").stdout)

    def children(self):
        main = self.main()
        return {int(pid) for pid in
                self.lab.server(f"cat /proc/{main}/task/{main}/children").stdout.split()}

    def messages(self):
        return self.lab.server(f"journalctl -o cat -u {self.name}").stdout

    def give_up(self):
        """Prints the state of the unit, and stops it before the next tests."""
        try:
            print(self.lab.server(
                f"fsocketctl listeners; systemctl status --no-pager -n 0 {self.name}; "
                f"journalctl -n 40 -o short-monotonic -u {self.name}; dmesg | tail -40",
                check=False).stdout)
        finally:
            self.__exit__()


def listener(lab, port):
    """The tool's entry for the listening socket on the port; None if there is none."""
    found = [entry for entry in ctl(lab, "listeners")["listeners"] if entry["port"] == port]
    assert len(found) <= 1
    return found[0] if found else None


def attached(lab, port):
    entry = listener(lab, port)
    return [worker for worker in entry["workers"] if worker["attached"]] if entry else []


def serving(lab, name="ctl", port=PORT, count=None, options=""):
    """The demo server, when all its workers have local listeners; a lone one gets none."""
    count = lab.cores if count is None else count

    def ready():
        if count > 1:
            return len(attached(lab, port)) == count
        entry = listener(lab, port)
        return entry and len(entry["workers"]) == 1

    unit = Unit(lab, name, f"{SERVER} -w {count} {options or f'-a 0.0.0.0:{port}'}")
    try:
        eventually(ready)
    except BaseException:
        unit.give_up()
        raise
    return unit


def value(lab, name):
    return lab.server(f"cat {PARAMETERS}/{name}").stdout.strip()


def findings(lab):
    """Items with findings, and the whole report; nothing may have been skipped."""
    done = lab.server("fsocketctl doctor --json", check=False)
    report = json.loads(done.stdout)
    found = [entry["item"] for entry in report["items"] if entry["state"] == "finding"]
    assert done.returncode == (1 if found else 0)
    assert report["findings"] == len(found)
    assert "skipped" not in [entry["state"] for entry in report["items"]], report
    return found, report


QUEUES = "/sys/class/net/eth0/queues"


@contextlib.contextmanager
def delivered(lab):
    """Four workers run alone, on cores 0 to 3 of 8: what doctor says, before and after its remedy.

    Within the block, the packets of the other cores are moved to them.
    """
    found, report = findings(lab)
    assert found == ["workers", "delivery"], report
    entry = next(entry for entry in report["items"] if entry["item"] == "delivery")
    assert entry["text"].startswith(
        "eth0 has receive queues on 8 cores, and workers are on 4: packets of rx-4, rx-5, rx-6, "
        "rx-7 are handled on cores without a worker, "), entry
    assert entry["remedy"] == "; ".join(
        f"echo {1 << queue - 4:x} > {QUEUES}/rx-{queue}/rps_cpus" for queue in range(4, 8))
    try:
        lab.server(entry["remedy"])
        found, report = findings(lab)
        assert found == [], report
        # One more queue is moved, and one to a core without a worker.
        lab.server(f"echo 1 > {QUEUES}/rx-2/rps_cpus; echo 20 > {QUEUES}/rx-6/rps_cpus")
        found, report = findings(lab)
        assert found == ["rps", "delivery"], report
        texts = {entry["item"]: entry["text"] for entry in report["items"]}
        assert texts["rps"].startswith("eth0: RPS moves the packets of 2 receive queues")
        assert "packets of rx-6 are handled" in texts["delivery"]
        lab.server(f"echo 0 > {QUEUES}/rx-2/rps_cpus; echo 4 > {QUEUES}/rx-6/rps_cpus")
        assert findings(lab)[0] == []
        yield
    finally:
        lab.server(f"echo 0 | tee {QUEUES}/rx-*/rps_cpus")


def nginx(mutex, affinity="worker_cpu_affinity auto;"):
    return f"""
        worker_processes 8;
        {affinity}
        pid /run/fsbench-nginx.pid;
        error_log stderr warn;
        # accept_mutex on; in a comment does nothing
        events {{ worker_connections 1024; accept_mutex_delay 100ms; accept_mutex {mutex}; }}
        http {{ access_log off; server {{ listen {PORT + 1}; return 200 "ok"; }} }}
    """


@contextlib.contextmanager
def unpinned(lab, server):
    """A worker's process, which may run on all cores within the block."""
    victim = sorted(server.children())[4]
    core = lab.server(f"taskset -cp {victim}").stdout.split()[-1]
    lab.server(f"taskset -cp 0-7 {victim}")
    try:
        yield victim
    finally:
        lab.server(f"taskset -cp {core} {victim}")
