# SPDX-License-Identifier: GPL-2.0-only
"""Ansible of both Debian releases: the installed one, and Debian 13's, unpacked beside it."""
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What make clean deletes.
KEPT = ROOT / ".lab/ansible-trixie"
# Python of that release, with its own libraries, on this machine's kernel. Modules for localhost
# are run by it, too; other programs that it starts are this machine's.
PYTHON = """#!/bin/sh
exec {usr}/lib64/ld-linux-x86-64.so.2 --argv0 "$0" \\
    --library-path {usr}/lib/x86_64-linux-gnu {usr}/bin/python.real "$@"
"""


def unpacked():
    """Unpacks Debian 13's ansible-core and all that it needs, once; returns the folder, or raises
    OSError or CalledProcessError if that cannot be done."""
    if not KEPT.exists():
        KEPT.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT.parent) as folder:
            subprocess.run(["mmdebstrap", "--quiet", "--variant=extract",
                            "--include=ansible-core,libc6", "trixie", f"{folder}/tree"],
                           check=True, capture_output=True, timeout=600)
            os.rename(f"{folder}/tree", KEPT)
    return KEPT


@pytest.fixture(scope="session", name="trixie")
def ansible_of_trixie():
    """A folder with Debian 13's ansible-playbook. Any user may read it."""
    try:
        kept = unpacked()
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        pytest.skip(f"Debian 13's ansible-core cannot be had: {said[-200:] or error}")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        usr = Path(folder) / "usr"
        for name in ("bin", "lib", "lib64"):
            shutil.copytree(kept / "usr" / name, usr / name, symlinks=True)
        python, program = (usr / "bin/python3").resolve(), Path(folder) / "ansible-playbook"
        python.rename(usr / "bin/python.real")
        python.write_text(PYTHON.format(usr=usr))
        program.write_text(f'#!/bin/sh\nexec {python} {usr}/bin/ansible-playbook "$@"\n')
        for path in (python, program):
            path.chmod(0o755)
        said = subprocess.run([program, "--version"], capture_output=True, text=True,
                              check=True).stdout
        assert "[core 2.19." in said and f"({python})" in said, said
        yield folder


@pytest.fixture(params=["installed", "trixie"])
def ansible(request):
    """The folders to be put before PATH, "FOLDER:" or "": a test runs for both releases."""
    if request.param == "installed":
        return ""
    return request.getfixturevalue("trixie") + ":"
