# SPDX-License-Identifier: GPL-2.0-only
"""No files of C call each other in a circle, so that each can be read after those below it."""
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The name of a function: in its definition, and in its declaration in a header.
DEFINED = re.compile(r"^(?!static|#)(?:\w+[ \t*]+)+?(\w+)\([^;{}]*\)\n\{", re.MULTILINE)
DECLARED = re.compile(r"(\w+)\([^;{}]*;")


def code_of(path):
    """Without comments and strings."""
    return re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", "", path.read_text(),
                  flags=re.DOTALL)


def calls(folder):
    """{file: files that define what it names}, without extensions. Only what a header of the folder
    declares is called by other files: the library also defines functions of the C library."""
    declared = {name for path in folder.glob("*.h") for name in DECLARED.findall(code_of(path))}
    texts = {path.stem: code_of(path) for path in folder.glob("*.c")}
    owners = {name: stem for stem, text in texts.items()
              for name in DEFINED.findall(text) if name in declared}
    return {stem: {owners[word] for word in set(re.findall(r"\w+", text))
                   if owners.get(word, stem) != stem} for stem, text in texts.items()}


@pytest.mark.parametrize("folder, calling, called", [
    ("kmod", "listen", "listener"), ("library", "group", "worker"), ("demo", "http", "conn"),
    ("counting", "read", "groups")])
def test_no_circle(folder, calling, called):
    found = calls(ROOT / folder)
    # It does find calls.
    assert called in found[calling]
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        pytest.fail(f"{folder}: " + ".c calls ".join(reversed(error.args[1])) + ".c")
