# SPDX-License-Identifier: GPL-2.0-only
"""Numbers and tables as Markdown."""
DASH = "–"


def number(value, digits):
    return f"{value:,.{digits}f}"


def with_interval(value, low, high, digits):
    """Too few repetitions have no interval."""
    text = number(value, digits)
    if low is None or low == high:
        return text
    return f"{text} [{number(low, digits)}–{number(high, digits)}]"


def markdown(header, rows):
    """header: a list of texts; rows: lists of as many."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
