# SPDX-License-Identifier: GPL-2.0-only
"""The Debian packages, installed, upgraded and purged in a guest of each release.

make test-packages runs this, and make test does not: an emulated guest compiles the module twice.
The tests of a guest are one story, in this order.
"""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "playbooks/roles/lab/files/lab.sh"
# The kernel of each release of Debian.
RELEASES = {"bookworm": "6.1", "trixie": "6.12"}
OLD = "0.9"
NEW = re.match(r"fastsocket \(([\d.]+)\)", (ROOT / "debian/changelog").read_text())[1]
OURS = "fastsocket-dkms libfsocket fastsocket-bench"
# The files that have the version of the packages, which is also that of the module.
VERSIONS = {"debian/changelog": f"fastsocket ({NEW})", "kmod/main.c": f'MODULE_VERSION("{NEW}")',
            "kmod/dkms.conf": f'PACKAGE_VERSION="{NEW}"', "CHANGELOG.md": f"## {NEW} "}

pytestmark = pytest.mark.skipif(not os.environ.get("TEST_PACKAGES"),
                                reason="make test-packages runs it: hours, emulated")


class Guest:
    """A guest of one release; its packages come from this machine."""

    def __init__(self, release):
        self.release = release
        self.environment = {**os.environ, "LAB_EXTRA": release}

    def lab(self, *words, limit=900, **options):
        return subprocess.run([LAB, *words], env=self.environment, timeout=limit, check=False,
                              **options)

    def run(self, command, check=True, limit=1500):
        done = self.lab("ssh", command, limit=limit, capture_output=True, text=True)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def out(self, command):
        return self.run(command).stdout.strip()

    def install(self, version):
        return self.run("DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends "
                        f"install /run/packages/{version}/*.deb", limit=7200)

    def answers(self):
        """Whether nginx serves its page."""
        return "nginx" in self.out("python3 -c 'import urllib.request as u; "
                                   "print(u.urlopen(\"http://127.0.0.1/\", timeout=20).read())'")

    def ours(self):
        """Files on the disk that are named like ours."""
        return self.out("find / -xdev '(' -iname '*fastsocket*' -o -iname '*fsocket*' ')'"
                        ).splitlines()


def build(tree, version):
    """Builds the packages of this version of the tree, in a folder beside it."""
    files = subprocess.run(["git", "ls-files", "-z", ":!results", ":!tests"], cwd=ROOT, check=True,
                           capture_output=True).stdout
    tree.mkdir(parents=True)
    subprocess.run(["xargs", "-0", "cp", "-P", "--parents", "-t", tree], cwd=ROOT, input=files,
                   check=True)
    for name, text in VERSIONS.items():
        path = tree / name
        before = path.read_text()
        assert text in before
        path.write_text(before.replace(text, text.replace(NEW, version), 1))
    done = subprocess.run(["dpkg-buildpackage", "-us", "-uc"], cwd=tree, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return sorted(path for path in tree.parent.glob("*.deb") if "-dbgsym_" not in path.name)


@pytest.fixture(scope="module", name="packages")
def built_packages(tmp_path_factory):
    """{version: packages}; lintian accepts those of this version."""
    top = tmp_path_factory.mktemp("packages")
    found = {version: build(top / version / "fastsocket", version) for version in (OLD, NEW)}
    done = subprocess.run(["lintian", "--allow-root", "--fail-on", "warning",
                           *(top / NEW).glob("*.changes")], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout
    return found


@pytest.fixture(scope="module", name="guest", params=RELEASES)
def booted_guest(request, packages):
    guest = Guest(request.param)
    assert guest.lab("up", "--cpus", "2", "--kernel", RELEASES[guest.release],
                     limit=3600).returncode == 0
    try:
        for version, files in packages.items():
            tar = subprocess.run(["tar", "-C", files[0].parent, "-c",
                                  *(file.name for file in files)],
                                 check=True, capture_output=True).stdout
            guest.lab("ssh", f"mkdir -p /run/packages/{version} && tar -C /run/packages/{version} "
                      "-x --warning=no-timestamp", input=tar)
        # The image has a module that the lab has built, leaves out documents, and does not
        # start nginx.
        guest.run("rm -rf /lib/modules/*/updates /etc/dpkg/dpkg.cfg.d/* "
                  "/etc/systemd/system/nginx.service; depmod; systemctl daemon-reload")
        assert guest.ours() == []
        yield guest
    finally:
        guest.lab("down")


def test_installed(guest):
    guest.install(OLD)
    release = guest.out("uname -r")
    assert f"fastsocket/{OLD}, {release}, x86_64: installed" in guest.out("dkms status")
    guest.run("modprobe fastsocket && udevadm settle")
    assert guest.out("stat -c %a /dev/fastsocket") == "666"
    assert guest.out("cat /sys/module/fastsocket/version") == OLD
    for command in ("fsocketctl status", "fastsocket-bench -h"):
        guest.run(command)


def test_loaded_at_boot_if_asked_for(guest):
    """Runs the service that loads modules at boot; a line without # asks for the module."""
    guest.run("rmmod fastsocket; systemctl restart systemd-modules-load")
    assert guest.run("test -e /dev/fastsocket", check=False).returncode
    guest.run("sed -i 's/^#fastsocket/fastsocket/' /etc/modules-load.d/fastsocket.conf && "
              "systemctl restart systemd-modules-load && udevadm settle && test -e /dev/fastsocket")


def test_a_service_by_the_drop_in(guest):
    guest.run("cp -r /usr/share/doc/libfsocket/examples/nginx.service.d /etc/systemd/system/ && "
              "systemctl daemon-reload && systemctl restart nginx")
    assert guest.answers()
    assert ":80" in guest.out("fsocketctl listeners")


def test_upgraded(guest):
    """nginx runs during the upgrade, and goes on with the loaded module."""
    guest.install(NEW)
    assert guest.answers()
    status = guest.out("dkms status")
    assert f"fastsocket/{NEW}, {guest.out('uname -r')}, x86_64: installed" in status
    assert OLD not in status
    assert not [path for path in guest.ours() if path.startswith(f"/usr/src/fastsocket-{OLD}")]
    assert guest.out("modinfo -F version fastsocket") == NEW
    assert guest.out("cat /sys/module/fastsocket/version") == OLD
    # The file that the administrator has changed stays.
    guest.run("grep -q '^fastsocket' /etc/modules-load.d/fastsocket.conf")
    guest.run("systemctl stop nginx && rmmod fastsocket && systemctl start nginx")
    assert guest.out("cat /sys/module/fastsocket/version") == NEW
    assert ":80" in guest.out("fsocketctl listeners")


def test_purged(guest):
    """Purges once while a server uses the module, and once while none does."""
    used = guest.release == "bookworm"
    if not used:
        guest.run("systemctl stop nginx")
    done = guest.run(f"DEBIAN_FRONTEND=noninteractive apt-get -y purge {OURS}")
    assert ("the module stays loaded, since programs use it" in done.stdout + done.stderr) == used
    assert guest.run("test -e /sys/module/fastsocket", check=False).returncode == (0 if used else 1)
    if used:
        assert guest.answers()
        guest.run("systemctl stop nginx && rmmod fastsocket")
    # The administrator has copied this file, so purging leaves it.
    guest.run("rm -r /etc/systemd/system/nginx.service.d && systemctl daemon-reload && "
              "systemctl start nginx")
    assert guest.answers()
    assert guest.out("dkms status") == ""
    assert guest.run("modinfo fastsocket", check=False).returncode
    assert guest.ours() == []
    assert guest.out(f"dpkg-query -Wf '${{Package}} ${{db:Status-Abbrev}}\\n' {OURS} 2> /dev/null "
                     "| grep -v ' un' || true") == ""
    warnings = guest.out("dmesg --level=emerg,alert,crit")
    assert warnings == ""
