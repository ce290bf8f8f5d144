# SPDX-License-Identifier: GPL-2.0-only
"""The playbooks without hosts."""
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from made import OTHER_SERVER
import summarise

# Fixtures.
pytest_plugins = "ansibles"

ROOT = Path(__file__).resolve().parents[2]


def results():
    return sorted(str(path) for path in (ROOT / "results").glob("*/*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="asking for the lab needs root")
@pytest.mark.parametrize("settings, boot", [
    ([], "--cpus 8 --kernel 6.1"),
    (["kernel=6.12,6.1", "server_cores=4", "workers=4"], "--cpus 4 --kernel 6.12")])
def test_checking_a_sweep_changes_nothing(settings, boot, ansible):
    lab = ROOT / ".lab/pid"
    before, was_up = results(), lab.exists()
    done = subprocess.run(["ansible-playbook", "run-sweep.yml", "--check", "--diff", "-v",
                           "-e", json.dumps({"sweep_set": settings})],
                          cwd=ROOT / "playbooks", capture_output=True, text=True, check=False,
                          env={**os.environ, "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true",
                               "PATH": ansible + os.environ["PATH"]}, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout and f"lab.sh up {boot}\"" in done.stdout
    assert results() == before
    assert lab.exists() == was_up


# A user without rights on the controller, who may use sudo on the hosts. These are stubs: what they
# are told is run here, which is safe as long as playbooks only check.
STUBS = {
    "ssh": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
    case $1 in -C | -tt | -q) shift ;; *) shift 2 ;; esac
done
echo "$1" >> "$STUBS/logins"
shift
exec sh -c "$*"
""",
    "sudo": """#!/bin/sh
while [ "$1" != /bin/sh ] && [ "$1" != sh ]; do shift; done
PATH=$STUBS/root:$PATH exec "$@"
""",
    "root/id": "#!/bin/sh\necho 0\n"}
INVENTORY = """all:
  vars:
    lab: false
    ansible_user: bench
    ansible_become: true
    ansible_become_exe: sudo
    ansible_ssh_executable: STUBS/ssh
    bench_argv: [ssh, "bench@{{ ansible_host }}"]
    bench_state: STUBS/state
  children:
    server:
      hosts:
        fsb-server: {ansible_host: 192.0.2.1, bench_address: 192.0.2.1, bench_nic: lo}
    loadgen:
      hosts:
        fsb-loadgen: {ansible_host: 192.0.2.2, bench_address: 192.0.2.2, bench_nic: lo,
                      bench_sources: STUBS/sources}
    a_rack:
      hosts: {fsb-server: , fsb-loadgen: }
    others:
      hosts:
        other: {ansible_host: 192.0.2.9}
"""


@pytest.fixture(name="checkout")
def checkout_of_nobody():
    """A copy of the tree that belongs to a user without rights, and that user's environment. It is
    not in tmp_path, which each start of another pytest makes unreadable for all other users."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        yield filled(folder)


def filled(folder):
    for name in ("playbooks", "experiments", "kmod", "counting"):
        shutil.copytree(ROOT / name, folder / "tree" / name,
                        ignore=shutil.ignore_patterns("__pycache__", "*.o", "*.ko"))
    (folder / "tree/results").mkdir()
    for name, text in STUBS.items():
        path = folder / "stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (folder / "stubs/hosts.yml").write_text(INVENTORY.replace("STUBS", str(folder / "stubs")))
    subprocess.run(["chown", "-R", "nobody:", folder / "tree", folder / "stubs"], check=True)
    return folder, {"PATH": f"{folder}/stubs:/usr/bin:/bin:/usr/sbin:/sbin",
                    "LC_ALL": "C.UTF-8",
                    "HOME": f"{folder}/stubs", "STUBS": f"{folder}/stubs",
                    "ANSIBLE_REMOTE_TMP": f"{folder}/stubs/tmp"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_unprivileged_controller(checkout, ansible):
    """Hosts may be in other groups, too, and other hosts in the inventory."""
    folder, environment = checkout
    environment["PATH"] = environment["PATH"].replace(":", f":{ansible}", 1)
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "ansible-playbook", "-i",
         folder / "stubs/hosts.yml", "run-sweep.yml", "--check", "--diff", "-e",
         '{"sweep_set": ["workers=1", "server_cores=1"]}'], env=environment,
        cwd=folder / "tree/playbooks", capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    recap = dict(re.findall(r"^(\S+) +: .*changed=(\d+) .*failed=0", done.stdout, re.M))
    assert recap == {"fsb-server": "0", "fsb-loadgen": "0"}
    assert "Look for what is missing (server)" in done.stdout
    logins = (folder / "stubs/logins").read_text().split()
    assert set(logins) == {"192.0.2.1", "192.0.2.2"}
    assert not list((folder / "tree/results").iterdir())


OTHER_TOOL = """from . import base


class Other(base.Tool):
    name, packages = "other", ("other-tool",)


TOOL = Other()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_packages_of_an_added_server_and_an_added_tool_are_asked_for(checkout):
    """Each is one file, which says its packages."""
    folder, environment = checkout
    (folder / "tree/experiments/servers/other.py").write_text(OTHER_SERVER)
    (folder / "tree/experiments/tools/other.py").write_text(OTHER_TOOL)
    done = subprocess.run(
        ["ansible-playbook", "-i", folder / "stubs/hosts.yml", "provision.yml", "--check", "-v"],
        env=environment, cwd=folder / "tree/playbooks", capture_output=True, text=True,
        check=False, timeout=300)
    missing = {host: json.loads(f"[{names}]") for host, names in re.findall(
        r'\[(fsb-\w+)\] => .*"stdout_lines": \[(.*?)\]', done.stdout)}
    assert {"other-server", "other-modules"} <= set(missing["fsb-server"]), done.stdout
    assert "other-tool" in missing["fsb-loadgen"] and "other-tool" not in missing["fsb-server"]


@pytest.mark.parametrize("limit, left_out", [
    ("fsb-loadgen", "fsb-server"), ("fsb-server", "fsb-loadgen"), ("server:loadgen", None)])
def test_a_sweep_refuses_a_limit_that_leaves_out_a_host(limit, left_out, tmp_path):
    """Before it logs in anywhere."""
    for name, text in STUBS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("STUBS", str(tmp_path)))
    done = subprocess.run(
        ["ansible-playbook", "-i", tmp_path / "hosts.yml", "run-sweep.yml", "--check", "--limit",
         limit, "--tags", "measure", "-e", f"sweep_results={tmp_path}"],
        cwd=ROOT / "playbooks", capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "STUBS": str(tmp_path), "ANSIBLE_REMOTE_TMP": str(tmp_path)})
    assert (done.returncode != 0) == bool(left_out), done.stdout + done.stderr
    assert (f"--limit leaves out {left_out}, and a sweep needs" in done.stdout) == bool(left_out)
    assert ("Check the plan" in done.stdout) == (not left_out)
    assert not (tmp_path / "logins").exists()


@pytest.mark.parametrize("said", [
    "", "2 of 6 repetitions could not be had, most often because x: y",
    f"{summarise.NOTHING}: 6 of 6 repetitions could not be had, most often because x: y"])
def test_a_sweep_that_could_measure_nothing_fails_at_its_end(said, tmp_path, ansible):
    """A stub of Python stands for all programs of the suite."""
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
case $* in
*plan.py*--check*) echo 1 ;;
*plan.py*) echo RUN ;;
*run.py*) ;;
*summarise.py*) echo; echo '{said}' ;;
*) echo "$1" >> {tmp_path}/made ;;
esac
""")
    python.chmod(0o755)
    (tmp_path / "hosts.yml").write_text(INVENTORY.replace("STUBS", str(tmp_path)))
    done = subprocess.run(
        ["ansible-playbook", "-i", tmp_path / "hosts.yml", "run-sweep.yml", "--tags", "measure",
         "-e", f"sweep_results={tmp_path}", "-e", f"sweep_python={python}"], timeout=300,
        env={**os.environ, "PATH": ansible + os.environ["PATH"]},
        cwd=ROOT / "playbooks", capture_output=True, text=True, check=False)
    fails = said.startswith(summarise.NOTHING)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    assert (f'"msg": "{said}"' in done.stdout) == fails
    # What there is is shown before.
    assert (tmp_path / "made").read_text().split() == ["../plots/plot.py",
                                                       "../experiments/report.py"]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "playbooks").glob("*.yml")))
def test_syntax(name, ansible):
    done = subprocess.run(
        ["ansible-playbook", "--syntax-check", "-i", "inventory/two-hosts.example.yml", name],
        env={**os.environ, "PATH": ansible + os.environ["PATH"]}, cwd=ROOT / "playbooks",
        capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
