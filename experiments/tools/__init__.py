# SPDX-License-Identifier: GPL-2.0-only
"""The load tools by name, TOOLS: one file describes each.

A tool's output becomes columns of samples.csv, which contract.py describes.
"""
import importlib
import lzma
import pkgutil

import sources
from .base import SHORTEST, Task, split  # noqa: F401 (what a tool is to do)

TOOLS = {tool.name: tool for tool in (
    importlib.import_module(f"{__name__}.{file.name}").TOOL
    for file in pkgutil.iter_modules(__path__) if file.name != "base")}
# The exceptions of the parsers for garbled output.
GARBLED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError,
           lzma.LZMAError)


def parsed(tool, loads):
    """(metrics of the tool's own output, why it is none or None). loads: of each generator."""
    try:
        metrics, reason = TOOLS[tool].merged(loads)
        return metrics, reason and (sources.named(TOOLS[tool], loads) or reason)
    except GARBLED:
        lines = b"".join(load.get("tool", b"") for load in loads).decode(
            errors="replace").strip().splitlines()
        return {}, (f"{tool} failed: what it printed is not complete"
                    + (f", and ends with: {lines[-1]}" if lines else ""))


def packages():
    """Names of Debian's, of all of them, sorted."""
    return sorted({name for tool in TOOLS.values() for name in tool.packages})


def speaking(protocol):
    """Names of the tools for servers of this protocol."""
    return sorted(name for name, tool in TOOLS.items() if tool.speaks == protocol)
