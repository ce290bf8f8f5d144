#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Puts committed results into documents: make docs runs it.

Between a line "<!-- result: PATTERN -->" and the next "<!-- end -->" it puts the newest
file that matches among those git knows: a table's text, or a picture. Runs sort by name.
Where none matches yet, it says so.
"""
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- result: (\S+) -->\n).*?(<!-- end -->)", re.S)


def committed(pattern):
    return sorted(subprocess.run(["git", "ls-files", pattern], cwd=ROOT, check=True,
                                 capture_output=True, text=True).stdout.split())


def content(document, pattern):
    found = committed(pattern)
    if not found:
        return (f"No run is committed yet: `make sweep EXPERIMENT={pattern.split('/')[1]}`, then "
                "`git add` its folder and `make docs`.\n")
    path = ROOT / found[-1]
    run = path.parent.parent
    if path.suffix == ".md":
        return f"{path.read_text(encoding='utf-8')}\nRun `{run.relative_to(ROOT)}`.\n"
    up = "../" * len(document.parent.relative_to(ROOT).parts)
    return f"![{path.stem} of {run.relative_to(ROOT)}]({up}{path.relative_to(ROOT)})\n"


def filled(document):
    return BLOCK.sub(lambda block: block[1] + content(document, block[2]) + block[3],
                     document.read_text(encoding="utf-8"))


def documents():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for each in documents():
        each.write_text(filled(each), encoding="utf-8")
