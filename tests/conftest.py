# SPDX-License-Identifier: GPL-2.0-only
"""Fixtures that all tests share: the lab, and the last line of a test run."""
import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "playbooks/roles/lab/files/lab.sh"
SOURCES = "/usr/local/src/fsbench"
# The lab with more servers: see lab.sh.
EXTRA = "-" + os.environ["LAB_EXTRA"] if os.environ.get("LAB_EXTRA") else ""
FILES = ROOT / f".lab{EXTRA}"
# The beginnings of the kernel's report of a crash.
COMPLAINT = r"BUG:|Oops|int3:|general protection|\bstall|lockup|Kernel panic"
# Lines that neither the fuzzer nor any test on a debug kernel may cause.
REPORT = (COMPLAINT + r"|WARNING:|KASAN|refcount_t:|corruption|INFO: task|ODEBUG:|"
          r"kmemleak: \d+ new|suspicious RCU")
# The kernel records here how many pages of a page pool that was destroyed are still in use.
POOLS = "/sys/kernel/tracing/instances/pools"
# The number of tests that may run again because the emulator failed.
RERUNS = 2
# The crash if the emulator goes on with a breakpoint that memory no longer has
# (docs/lab.md): int3 is named, or a CPU stays at the jump or NOP of a static key.
EMULATOR = r"int3|soft lockup(?s:.*?)Code: .*<(eb>|e9>|66> 90|0f> 1f 44)"
# Static keys that tests would switch again and again, or for the first time under load, which
# provokes that fault: those of ingress hooks, for good, and of IPv6's hash secret.
UNPATCHED = ("nft 'add table netdev fsb; add chain netdev fsb lo "
             "{ type filter hook ingress device lo priority 0; }'; "
             "bash -c 'exec 3<> /dev/tcp/::1/22'; sleep 0.2")
# Sockets that tests close with data that nobody acknowledges keep it, and pages of the skb pools,
# for eight retries, up to two minutes, and test_no_page_is_lost() would wait for them.
ORPHANS = "sysctl -qw net.ipv4.tcp_orphan_retries=3"

sys.path[:0] = [str(ROOT / "experiments"), str(ROOT / "docs")]


class Lab:
    """The lab's two hosts, provisioned and with everything installed."""

    address = "10.66.0.1"
    address6 = "fd66::1"
    cores = 8

    def __init__(self, kernel):
        self.kernel = kernel
        # A kernel of tests/debug, such as 6.1-kasan.
        self.debug = "-" in kernel
        # The kernel's warnings so far.
        self.warnings = set()
        # The last lines of a guest that crashed.
        self.died = ""
        namespace = "fsb-" + hashlib.sha1(bytes(ROOT)).hexdigest()[:8] + EXTRA
        self.server_argv = ["ssh", "-F", str(FILES / "ssh_config"), "fsb-server"]
        self.loadgen_argv = ["ip", "netns", "exec", namespace, "sh", "-c"]

    @staticmethod
    def up():
        """Whether the server answers."""
        return subprocess.run([LAB, "status"], check=False).returncode == 0

    def start(self):
        """Boots the server, and installs everything on it."""
        print(f"\nstarting the lab with kernel {self.kernel}", flush=True)
        subprocess.run([LAB, "up", "--kernel", self.kernel], check=True)
        print("installing on the server", flush=True)
        started = time.monotonic()
        self.server(f"mkdir -p {SOURCES}/tests")
        self.unpack(f"{SOURCES}/tests", ["tar", "-C", ROOT / "tests", "-c", "guest"])
        if self.debug:
            self.unpack("/", [ROOT / "tests/debug/stage.sh", self.kernel])
        playbook("provision.yml", "install.yml", "tune.yml")
        print(f"installed in {time.monotonic() - started:.0f} s", flush=True)
        self.server(f"{UNPATCHED}; {ORPHANS}")
        self.server(f"mkdir {POOLS}; echo 1 > {POOLS}/events/page_pool/page_pool_release/enable")
        self.died = ""
        # The warnings of booting.
        self.new_kernel_warnings()

    def unpack(self, folder, packer):
        """Unpacks on the server what a command of this machine packs."""
        tar = subprocess.run(packer, check=True, stdout=subprocess.PIPE).stdout
        # The guest's clock may be a bit behind.
        subprocess.run([*self.server_argv, f"tar -C {folder} -x --no-same-owner "
                        "--warning=no-timestamp"], input=tar, check=True)

    @staticmethod
    def _run(argv, command, check, limit, stdin):
        done = subprocess.run([*argv, command], capture_output=True, text=True,
                              timeout=limit, check=False, input=stdin)
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def server(self, command, check=True, limit=120, stdin=None):
        """A shell command on the server. If the guest dies, the test fails with its last lines."""
        if self.debug:
            limit *= 5
        try:
            done = self._run(self.server_argv, command, False, limit, stdin)
        except subprocess.TimeoutExpired:
            if self.up():
                raise
            died = True
        else:
            # This is the status of ssh itself.
            died = done.returncode == 255 and not self.up()
        if died:
            self.note_death()
            pytest.fail(self.died, pytrace=False)
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def note_death(self):
        """Keeps the guest's console output, from the first complaint on, else its end."""
        log = FILES / "serial.log"
        serial = log.read_text(errors="replace").splitlines() if log.exists() else ["it has none"]
        first = next((i for i, line in enumerate(serial) if re.search(COMPLAINT, line)),
                     len(serial))
        self.died = "the guest died:\n" + "\n".join(serial[min(first, len(serial) - 30):][:100])

    def loadgen(self, command, check=True, limit=120):
        """A shell command on the load generator."""
        return self._run(self.loadgen_argv, command, check, limit, None)

    def start_load(self, command):
        """A shell command on the load generator, in the background."""
        return subprocess.Popen([*self.loadgen_argv, command], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)

    @staticmethod
    def _table(text):
        header, *rows = text.splitlines()
        names = header.split()
        table = {name: {} for name in names[1:]}
        for row in rows:
            cpu, *values = map(int, row.split())
            for name, value in zip(names[1:], values):
                table[name][cpu] = value
        return table

    def counters(self):
        """Columns of the server's /proc/net/fastsocket: {column: {cpu: value}}."""
        return self._table(self.server("cat /proc/net/fastsocket").stdout)

    def counted(self, load):
        """Returns the result of load(), and the growth of the sum of each column.

        The packets of the command that reads the counters are left out."""
        command = "cat /proc/net/fastsocket; echo; read _; cat /proc/net/fastsocket"
        with subprocess.Popen([*self.server_argv, command], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as reader:
            before = self._table("".join(iter(reader.stdout.readline, "\n")))
            result = load()
            after = self._table(reader.communicate("\n")[0])
        return result, {name: sum(after[name].values()) - sum(before[name].values())
                        for name in before}

    def unload_module(self):
        """Work items may hold the module for a while after its last listener has ended."""
        self.server("for i in $(seq 100); do rmmod fastsocket 2> /dev/null && exit; sleep 0.2; "
                    "done; exec rmmod fastsocket")

    def pages_in_use(self):
        """Page pools that have been destroyed: {pool: pages that have not returned to it}."""
        trace = self.server(f"cat {POOLS}/trace").stdout
        return {pool: int(pages) for pool, pages
                in re.findall(r"page_pool=(\S+) inflight=(-?\d+)", trace)}

    def loadgen_counter(self, name):
        """One of nstat's counters on the load generator."""
        text = self.loadgen(f"nstat -asz {name}").stdout
        return int(re.search(rf"^{name} +(\d+)", text, re.M)[1])

    # The command that lists the kernel's warnings on the server.
    warnings_command = "dmesg --level=emerg,alert,crit,err,warn"

    def new_kernel_warnings(self, text=None):
        """The warnings since the last call; text: the output of warnings_command now."""
        if text is None:
            text = self.server(self.warnings_command).stdout
        # The emulator causes the first two, once per boot: 8 CPUs share the machine's. A test
        # that takes CPUs away causes the next three. The next comes with the first message
        # of its kind after a test that caused thousands, whichever test that is by then.
        # Packets in pages of enable_skb_pool may be unread a minute after the module's end:
        # test_no_page_is_lost() looks whether all pages return.
        expected = ("hrtimer: interrupt took", "DL replenish lagged", "no longer affine",
                    "select_fallback_rq", "IRQ fixup", "callbacks suppressed",
                    "stalled pool shutdown")
        lines = [line for line in text.splitlines()
                 if not any(words in line for words in expected)]
        new = [line for line in lines if line not in self.warnings]
        self.warnings = set(lines)
        return new


def playbook(*names):
    """Runs playbooks; returns the number of tasks that reported a change."""
    done = subprocess.run(["ansible-playbook", *names], cwd=ROOT / "playbooks",
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """
    Runs tests without the lab first, while its image is made, and then those for one kernel
    after those for another, so that the lab boots each kernel once.
    """
    def place(item):
        kernel = item.callspec.params.get("lab") if hasattr(item, "callspec") else None
        return KERNELS.index(kernel) if kernel in KERNELS else -1

    items.sort(key=place)


def talking(config):
    """Shows output at once."""
    return config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled()


@pytest.fixture(scope="session", autouse=True)
def image(request, pytestconfig):
    """The lab's image is being made; None where no test needs it."""
    if os.geteuid() or not any("lab" in item.fixturenames for item in request.session.items):
        yield None
        return
    with talking(pytestconfig):
        process = subprocess.Popen([LAB, "image"])
    with process:
        yield process


GUEST = pytest.StashKey()

# pytest keeps a fixture for the same object only, so tests for one kernel use this one.
KERNELS = os.environ.get("LAB_KERNELS", "6.1 6.12").split()


def build_programs(*variables):
    subprocess.run(["make", "-s", "-j2", "-C", ROOT / "tests/guest", *variables], check=True)


def build_modules(kernel):
    """Builds the modules of tests for the guest's kernel, if that is newer than the headers here.

    The image may have been made minutes after Debian published a kernel, and the headers before.
    """
    image = FILES / f"vmlinuz-{kernel}"
    if "-" in kernel or not image.exists():
        return
    # The field kernel_version: Documentation/arch/x86/boot.rst.
    setup = image.read_bytes()[:1 << 15]
    release = setup[0x200 + int.from_bytes(setup[0x20e:0x210], "little"):].split()[0].decode()
    if (ROOT / f"tests/guest/failing-{release}.ko").exists():
        return
    headers = Path(f"/lib/modules/{release}/build")
    if not headers.exists():
        subprocess.run(["make", "-s", "-C", ROOT, "packages-headers",
                        f"PACKAGES=linux-headers-{release}"])
    if headers.exists():
        build_programs(f"KDIR={headers}")


@pytest.fixture(scope="session", params=KERNELS)
def lab(request, pytestconfig, image):
    """Every test that uses it runs once for each kernel."""
    if image is None:
        pytest.fail("the tests that need the lab need root: sudo make test")
    build_programs(f"KERNEL={KERNELS[0].split('-')[0]}")
    image.wait()
    build_modules(KERNELS[0])
    was_up = Lab.up()
    hosts = Lab(request.param)
    request.config.stash[GUEST] = hosts
    try:
        with talking(pytestconfig):
            hosts.start()
        yield hosts
    finally:
        if not was_up:
            subprocess.run([LAB, "down"], check=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """After a test whose guest died, the next tests get a new guest."""
    hosts = item.config.stash.get(GUEST, None)
    if hosts and hosts.died and item.callspec.params.get("lab") == hosts.kernel:
        with talking(item.config):
            hosts.start()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Runs a test once more if its guest died of the emulator's fault (docs/lab.md)."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    hosts = item.config.stash.get(GUEST, None)
    if hosts and any(report.failed for report in reports) and "lab" in item.fixturenames:
        # The failure may be that of a load or a sweep, not of a request to the server.
        if not hosts.died and not hosts.up():
            hosts.note_death()
    if hosts and re.search(EMULATOR, hosts.died):
        reruns.append(item.nodeid)
        with talking(item.config):
            print(f"\n{item.nodeid} runs again, since the emulator failed: {hosts.died}")
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture
def quiet_kernel(lab):
    """Fails a test that makes the server's kernel log a warning."""
    yield
    assert lab.new_kernel_warnings() == []


counts = {"passed": 0, "failed": 0}
# The tests that ran again.
reruns = []


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        counts["passed"] += 1
    elif report.failed:
        counts["failed"] += 1


def pytest_collectreport(report):
    if report.failed:
        counts["failed"] += 1


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session, exitstatus):
    """Fails the run if the emulator failed too often, which would hide a fault of the module."""
    if len(reruns) > RERUNS and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        counts["failed"] += 1


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    # Another process reports what one of several has run (pytest-xdist).
    if hasattr(config, "workerinput"):
        return
    if "TEST_COUNTS" in os.environ:
        Path(os.environ["TEST_COUNTS"]).write_text(f"{counts['passed']} {counts['failed']}")
    print(f"{len(reruns)} tests ran again because the emulator failed, {RERUNS} may"
          + "".join(f"\n\t{name}" for name in reruns))
    print(f"{counts['passed']} passed, {counts['failed']} failed", flush=True)
