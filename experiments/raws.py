#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The tools' files, raw/CELL/REPETITION/NAME of a run: in the folder, or packed.

Raw files of a run are packed into its raw.tar.xz before it is committed (make pack), in a
thirtieth of the space. Raw is the only reader of both. The same files make the same
archive, byte by byte. perf.data is neither packed nor committed.
"""
import argparse
import io
import lzma
import shutil
import sys
import tarfile
from pathlib import Path

import contract
from tools.ab import latency_counts

UNPACKED = "perf.data"


class Raw:
    """The raw files of one run, by their path below raw/."""

    def __init__(self, run):
        self.run = run
        self.packed = {}
        archive = run / "raw.tar.xz"
        if archive.exists():
            with tarfile.open(archive) as tar:
                self.packed = {member.name: tar.extractfile(member).read() for member in tar}

    def read(self, *parts):
        """The file's bytes, or None where there is none."""
        name = "/".join(parts)
        path = self.run / "raw" / name
        return path.read_bytes() if path.is_file() else self.packed.get(name)

    def names(self):
        """Sorted paths below raw/."""
        folder = self.run / "raw"
        return sorted({str(path.relative_to(folder)) for path in folder.rglob("*")
                       if path.is_file()} | set(self.packed))


def slim(name, content):
    """ab's list of all requests as older runs kept it becomes counts by latency."""
    if name.endswith("requests.tsv.xz"):
        return name.replace("requests.tsv.xz", "latencies.csv"), latency_counts(content)
    return name, content


def pack(run):
    """Puts all but perf.data into raw.tar.xz, then deletes it from raw/."""
    raw = Raw(run)
    text = io.BytesIO()
    with tarfile.open(fileobj=text, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        # Files of one name stand together: they are alike.
        for name in sorted(raw.names(), key=lambda name: (name.split("/")[::-1])):
            if name.endswith(UNPACKED):
                continue
            name, content = slim(name, raw.read(name))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    new = run / "raw.tar.xz.new"
    new.write_bytes(lzma.compress(text.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    new.replace(run / "raw.tar.xz")
    for path in sorted((run / "raw").rglob("*"), reverse=True):
        if path.is_file() and path.name != UNPACKED:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if (run / "raw").is_dir() and not any((run / "raw").iterdir()):
        shutil.rmtree(run / "raw")


def main():
    parser = argparse.ArgumentParser(description="Pack the raw files of finished runs.")
    parser.add_argument("run", type=Path, nargs="+", help="a run's folder")
    for run in parser.parse_args().run:
        if (run / "raw").is_dir() and not contract.unfinished(run):
            pack(run)
            print(f"packed: {run.name}, {(run / 'raw.tar.xz').stat().st_size // 1024} KB")
        elif not (run / "samples.csv").exists():
            sys.exit(f"raws: {run} is not a run: ls -d results/*/* lists the runs")


if __name__ == "__main__":
    try:
        main()
    except (OSError, tarfile.TarError, lzma.LZMAError) as error:
        sys.exit(f"raws: {error}")
