#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Puts committed results into documents; make docs runs it.

Between one of these lines and the next "<!-- end -->" it writes

  <!-- result: PATTERN -->   the newest file that matches among those git knows: a table's
                             text, or a picture. Runs sort by name
  <!-- table: PATTERN -->    only the rows of a table, without the notes below it
  <!-- link: PATTERN -->     a link to that file, for tables that are long
  <!-- pooled -->            one comparison over all committed runs (experiments/pooled.py)
  <!-- compare: A B -->      what make compare prints of two runs, without profiles, and its forest
                             plot, which it draws into B's figures/

If no file matches, it writes that.
"""
import functools
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
sys.path.insert(0, str(ROOT / "plots"))
import compare  # noqa: E402 (its folder has to be named first)
import difference  # noqa: E402
import pooled  # noqa: E402
from study import Study  # noqa: E402

BLOCK = re.compile(r"(<!-- (result|table|link|pooled|compare)(?:: (\S+(?: \S+)?))? -->\n).*?"
                   r"(<!-- end -->)", re.S)


@functools.lru_cache(maxsize=None)
def committed(pattern):
    return sorted(subprocess.run(["git", "ls-files", pattern], cwd=ROOT, check=True,
                                 capture_output=True, text=True).stdout.split())


@functools.lru_cache(maxsize=None)
def pooled_table():
    return pooled.table([(ROOT / path).parent for path in committed("results/*/*/samples.csv")])


def compared(document, runs):
    """The comparison of two runs, and a link to its forest plot."""
    a, b = (Study(ROOT / run) for run in runs.split())
    up = "../" * len(document.parent.relative_to(ROOT).parts)
    return (f"{compare.report(a, b, profiled=False)[0]}\n"
            f"![{b.plan['experiment']} compared with {a.plan['experiment']}]"
            f"({up}{picture(a, b).relative_to(ROOT)})\n")


def picture(a, b):
    return b.run / "figures" / f"compared-{a.plan['experiment']}-{a.run.name}.png"


def draw(document):
    """Draws the forest plots of the document's comparisons."""
    for _, kind, runs, _ in BLOCK.findall(document.read_text(encoding="utf-8")):
        if kind == "compare":
            a, b = (Study(ROOT / run) for run in runs.split())
            difference.write(difference.draw(a, b), picture(a, b))


def content(document, kind, pattern):
    if kind == "pooled":
        return pooled_table()
    if kind == "compare":
        return compared(document, pattern)
    found = committed(pattern)
    if not found:
        return (f"No run is committed yet: `make sweep EXPERIMENT={pattern.split('/')[1]}`, then "
                "`make pack`, `git add` its folder and `make docs`.\n")
    path = ROOT / found[-1]
    run = path.parent.parent.relative_to(ROOT)
    up = "../" * len(document.parent.relative_to(ROOT).parts)
    link = f"{up}{path.relative_to(ROOT)}"
    if kind == "link":
        return f"[{path.stem} of {run}]({link})\n"
    if path.suffix != ".md":
        return f"![{path.stem} of {run}]({link})\n"
    text = path.read_text(encoding="utf-8")
    if kind == "table":
        rows = text.partition("\n\n")[0]
        return f"{rows}\n\nRun `{run}`; [what n and the brackets mean]({link}).\n"
    return text


def filled(document):
    return BLOCK.sub(lambda block: block[1] + content(document, block[2], block[3]) + block[4],
                     document.read_text(encoding="utf-8"))


def documents():
    return [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    for each in documents():
        draw(each)
        each.write_text(filled(each), encoding="utf-8")
