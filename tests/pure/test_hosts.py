# SPDX-License-Identifier: GPL-2.0-only
"""The playbooks' scripts on hosts unlike those of the lab."""
import os
import subprocess
from pathlib import Path

import pytest

ROLES = Path(__file__).resolve().parents[2] / "playbooks/roles"
HOST = ROLES.parents[1] / "experiments/host.sh"
TUNE = ROLES / "tune/files/tune.sh"
RESTORE = ROLES / "restore/files/restore.sh"
INSTALL = ROLES / "install/files/install.sh"

# The names of interrupts by driver: (name, whether it belongs to a receive queue).
NAMES = {
    "virtio_net": [("virtio0-config", False), ("virtio0-input.0", True),
                   ("virtio0-output.0", False), ("virtio0-input.1", True),
                   ("virtio0-output.1", False)],
    "ixgbe": [("eth1-TxRx-0", True), ("eth1-TxRx-1", True), ("eth1", False)],
    "i40e": [("i40e-0000:81:00.0:misc", False), ("i40e-eth1-TxRx-0", True),
             ("i40e-eth1-TxRx-1", True)],
    "mlx5_core": [("mlx5_async0@pci:0000:3b:00.0", False), ("mlx5_comp0@pci:0000:3b:00.0", True),
                  ("mlx5_comp1@pci:0000:3b:00.0", True), ("mlx5_comp10@pci:0000:3b:00.0", True)],
    "mlx4_en": [("mlx4-async@pci:0000:01:00.0", False), ("mlx4-1@0000:01:00.0", True),
                ("mlx4-2@0000:01:00.0", True)],
    "gve": [("gve-ntfy-blk0@pci:0000:00:04.0", True), ("gve-ntfy-blk1@pci:0000:00:04.0", True),
            ("gve-mgmnt@pci:0000:00:04.0", False)],
    "ena": [("ena-mgmnt@pci:0000:00:05.0", False), ("eth1-Tx-Rx-0", True), ("eth1-Tx-Rx-1", True)],
    "sfc": [("eth1-0", True), ("eth1-1", True)],
    "tg3": [("eth1-tx-0", False), ("eth1-rx-1", True), ("eth1-rx-2", True)],
}


def host(root, names, msi=True):
    """A host whose eth1 has these interrupts, from 30 on, and whose eth10 has others."""
    device = root / "sys/devices/pci0/eth"
    device.mkdir(parents=True)
    (root / "sys/class/net/eth1").mkdir(parents=True)
    (root / "sys/class/net/eth1/device").symlink_to(device)
    lines = ["            CPU0       CPU1",
             "   0:         22          0   IO-APIC   2-edge      timer",
             "  20:          0          0   PCI-MSI 1-edge      eth10-TxRx-0"]
    for irq, name in enumerate(names, 30):
        if msi:
            (device / "msi_irqs").mkdir(exist_ok=True)
            (device / "msi_irqs" / str(irq)).write_text("msix\n")
        lines.append(f"  {irq}:          5          9   PCI-MSI {irq}-edge      {name}")
    (root / "proc").mkdir()
    (root / "proc/interrupts").write_text("\n".join(lines) + "\n")


def interrupts(root):
    done = subprocess.run(["bash", "-s", "--", "--interrupts", "eth1"], capture_output=True,
                          input=HOST.read_text() + TUNE.read_text(), text=True, check=True,
                          env={**os.environ, "FSB_ROOT": str(root)})
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("driver", NAMES)
def test_interrupts_of_receive_queues_are_found(driver, tmp_path):
    host(tmp_path, [name for name, _ in NAMES[driver]])
    assert interrupts(tmp_path) == [irq for irq, (_, receives) in enumerate(NAMES[driver], 30)
                                    if receives]


def test_without_msi_the_whole_name_counts(tmp_path):
    host(tmp_path, ["eth1-TxRx-0", "eth1-TxRx-1"], msi=False)
    assert interrupts(tmp_path) == [30, 31]


def test_queues_come_in_their_order(tmp_path):
    host(tmp_path, ["eth1-TxRx-10", "eth1-TxRx-2", "eth1-TxRx-0"])
    assert interrupts(tmp_path) == [32, 31, 30]


def restore(state):
    return subprocess.run(["sh", RESTORE, state], capture_output=True, text=True, check=False)


def boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")


def test_restored_in_the_same_boot(tmp_path):
    setting = tmp_path / "rps_cpus"
    setting.write_text("ff\n")
    state = tmp_path / "state"
    state.mkdir()
    (state / "boot").write_text(boot_id())
    (state / "sysfs").write_text(f"{setting} 0\n")
    assert restore(state).returncode == 0
    assert setting.read_text() == "0\n"
    assert not state.exists()


def test_nothing_is_written_back_after_a_reboot(tmp_path):
    setting = tmp_path / "rps_cpus"
    setting.write_text("ff\n")
    state = tmp_path / "state"
    state.mkdir()
    (state / "boot").write_text("another\n")
    (state / "sysfs").write_text(f"{setting} 0\n")
    assert restore(state).returncode == 0
    assert setting.read_text() == "ff\n"
    assert not state.exists()


def shifted(tmp_path, state, **programs):
    """Runs restore.sh with folders and programs of its own."""
    for name, text in {"systemctl": "exit 1", "sleep": ":", **programs}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    text = RESTORE.read_text()
    for folder in ("/run/fsbench", "/sys/module", "/usr/local/src"):
        (tmp_path / folder[1:]).mkdir(parents=True, exist_ok=True)
        text = text.replace(folder, f"{tmp_path}{folder}")
    path = f"{tmp_path}:{os.environ['PATH']}"
    return subprocess.run(["sh", "-c", text, "restore", state], capture_output=True, text=True,
                          check=False, env={**os.environ, "PATH": path})


@pytest.mark.parametrize("refusals, status", [(3, 0), (1000, 1)])
def test_a_module_that_is_still_in_use(tmp_path, refusals, status):
    """For a moment, as sockets close; or for longer, by another program."""
    module = tmp_path / "sys/module/fastsocket"
    module.mkdir(parents=True)
    (tmp_path / "usr/local/src/fsbench/kmod").mkdir(parents=True)
    done = shifted(tmp_path, tmp_path / "state", rmmod=f"""echo >> {tmp_path}/tried
[ $(wc -l < {tmp_path}/tried) -gt {refusals} ] && rmdir {module}""")
    assert done.returncode == status, done.stderr
    assert ("changed: module unloaded" in done.stdout) == (not status)
    assert ("cannot be put back: fastsocket=unloaded(some program uses the module);" in done.stderr
            ) == bool(status)


def test_a_module_of_somebody_else_stays(tmp_path):
    """As on a load generator, where the role install has put none."""
    (tmp_path / "sys/module/fastsocket").mkdir(parents=True)
    done = shifted(tmp_path, tmp_path / "state", rmmod=f"touch {tmp_path}/asked")
    assert done.returncode == 0 and not (tmp_path / "asked").exists()


def test_what_a_killed_repetition_has_set_is_kept_on_record(tmp_path):
    setting = tmp_path / "rps_cpus"
    setting.write_text("ff\n")
    undo = tmp_path / "run/fsbench/undo"
    undo.parent.mkdir(parents=True)
    # A folder cannot be written to, not even by root.
    undo.write_text(f"{tmp_path} 1\n{setting} 0\n")
    done = shifted(tmp_path, tmp_path / "state")
    assert done.returncode == 1 and f"cannot be put back: {tmp_path}=1;" in done.stderr
    assert setting.read_text() == "0\n" and undo.exists()
    undo.write_text(f"{setting} 3\n")
    assert shifted(tmp_path, tmp_path / "state").returncode == 0
    assert setting.read_text() == "3\n" and not undo.exists()


def test_what_cannot_be_put_back_is_named_and_kept(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "boot").write_text(boot_id())
    # A folder cannot be written to, not even by root.
    (state / "sysfs").write_text(f"{tmp_path} 0\n")
    done = restore(state)
    assert done.returncode == 1
    assert f"cannot be put back: {tmp_path}=0" in done.stderr
    assert (state / "sysfs").exists()


def test_irqbalance_that_does_not_start_is_named_and_kept(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "irqbalance").touch()
    done = shifted(tmp_path, state)
    assert done.returncode == 1 and "cannot be put back: irqbalance=started;" in done.stderr
    assert (state / "irqbalance").exists()
    assert shifted(tmp_path, state, systemctl='[ "$1" = start ]').returncode == 0
    assert not state.exists()


SIGNED = "signer: me\n"


@pytest.mark.parametrize("installed, built, status", [
    ("one\n" + SIGNED, "two\n", 1), ("one\n" + SIGNED, "two\n" + SIGNED, 0),
    # The same module but for its signature.
    ("one\n" + SIGNED, "one\n", 0),
    ("one\n", "two\n", 0), ("", "two\n", 0)])
def test_a_signed_module_is_not_replaced_by_one_without_signature(tmp_path, installed, built,
                                                                  status):
    """The kernel would refuse it under Secure Boot. The stub of modinfo reads text."""
    (tmp_path / "modinfo").write_text("#!/bin/sh\nsed -n 's/^signer: //p' \"$3\"\n")
    (tmp_path / "modinfo").chmod(0o755)
    (tmp_path / "depmod").symlink_to("/bin/true")
    there = tmp_path / "lib/modules/6.1/updates/fastsocket.ko"
    made = tmp_path / "src/kmod-6.1/fastsocket.ko"
    for path, text in ((there, installed), (made, built)):
        path.parent.mkdir(parents=True)
        if text:
            path.write_text(text)
    text = INSTALL.read_text().partition("\nimage=\n")[0]
    for old, new in (("/lib/modules", there.parents[2]), ("/run/", f"{tmp_path}/"),
                     ("src=/usr/local/src/fsbench", f"src={tmp_path}/src")):
        text = text.replace(old, str(new))
    done = subprocess.run(["sh", "-c", f"{text}\ninstall_module 6.1 || echo stays"], text=True,
                          capture_output=True, check=False,
                          env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.returncode == status, done.stderr
    if status:
        assert (f"{there} is signed by me, and what was built is not: sign {made} with that key"
                in done.stderr) and "changed" not in done.stdout
    stays = status or installed.startswith(built)
    assert there.read_text() == (installed if stays else built)
    assert ("stays" in done.stdout) == (stays and not status)


def test_what_was_recorded_and_not_changed_is_as_it_was(tmp_path):
    """A record is older than the change. Neither the NIC nor this file would take its own value."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "boot").write_text(boot_id())
    (state / "queues").write_text("eth1 1\n")
    (state / "sysfs").write_text("/proc/version " + Path("/proc/version").read_text())
    done = shifted(tmp_path, state, ethtool='[ "$1" = -l ] && echo "Combined: 1"')
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr
    assert not state.exists()
