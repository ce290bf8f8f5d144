# SPDX-License-Identifier: GPL-2.0-only
"""Flame graphs of the call chains that repetitions under perf keep, as inline SVG.

A box is a function; the boxes above it are the functions that it called. Its width is its share of
the busy samples; titles, which browsers show under the pointer, have the shares as numbers. In the
difference of two graphs each box is as wide as it is in that one of both in which it is wider,
so that a function which only one of them has is there, too.
"""
from html import escape

import profiles
from markdown import number

# The widths of one of two graphs side by side, and of one below them.
WIDTH, WIDE = 600, 1200
ROW, FONT, MARGIN = 15, 9, 4
# The width of a character of FONT; the share, %, below which a box is left out.
LETTER, LEAST = 5.2, 0.2
# The palette of the figures, which colour-blind readers can tell apart, too.
SPINS, TAKES, LESS, MORE = "#d55e00", "#e69f00", "#0072b2", "#d55e00"
PLAIN = ("#dfe6ea", "#e9e6df", "#e4e4ea")
# The strongest colour of a box in the difference, on which black text stays readable.
DEEPEST = 0.75


def stacks(study, raw, cell):
    """({call chain: % of busy samples}, repetitions) of a cell's perf repetitions."""
    shares, repetitions = {}, 0
    for sample in study.own(cell, "profiles").to_dict("records"):
        text = raw.read(cell, sample["repetition"], profiles.STACKS)
        chains = profiles.busy_chains(text.decode()) if text else {}
        busy = sum(chains.values())
        repetitions += bool(busy)
        for chain, count in chains.items():
            shares[chain] = shares.get(chain, 0) + 100 * count / busy
    return {chain: share / repetitions for chain, share in shares.items()}, repetitions


class Box:
    """A function below its callers: its samples in each of the profiles, and its callees."""

    def __init__(self, name, number_of):
        self.name = name
        self.own = [0.0] * number_of
        self.callees = {}

    def shares(self):
        """The share of itself and all that it called, in each profile."""
        below = [box.shares() for box in self.callees.values()]
        return [sum(values) for values in zip(self.own, *below)]

    def width(self):
        return max(self.own) + sum(box.width() for box in self.callees.values())


def tree(*found):
    """The Box of all programs; found: call chains of each profile."""
    root = Box("all", len(found))
    for place, shares in enumerate(found):
        for chain, share in shares.items():
            box = root
            for name in chain:
                box = box.callees.setdefault(name, Box(name, len(found)))
            box.own[place] += share
    return root


def mixed(colour, part):
    """A mixture of white and that part of the colour, 0 to 1."""
    parts = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (one - 255) * part):02x}" for one in parts)


def plain(box):
    """Colour and title of a box in the graph of one profile."""
    share, = box.shares()
    if profiles.SPIN.search(box.name):
        colour = SPINS
    elif profiles.TAKER.search(box.name):
        colour = TAKES
    else:
        colour = PLAIN[sum(box.name.encode()) % len(PLAIN)]
    return colour, f"{box.name}: {number(share, 2)} % of busy samples"


def changed(box):
    """The same in the difference of two."""
    before, after = box.shares()
    part = (after - before) / max(before, after)
    return (mixed(MORE if part > 0 else LESS, DEEPEST * abs(part)),
            f"{box.name}: {number(before, 2)} % without, {number(after, 2)} % with: "
            f"{after - before:+.2f}")


def boxes(box, left, level, scale, look):
    """SVG of a box and of all above it; level: of rows above the lowest."""
    if box.width() < LEAST:
        return []
    width = box.width() * scale
    colour, title = look(box)
    fits = int((width - 4) / LETTER)
    name = box.name if len(box.name) <= fits else box.name[:fits - 1] + "…"
    label = (f'<text x="{left + 2:.1f}" y="{-level * ROW - 4}">{escape(name)}</text>'
             if fits > 2 else "")
    drawn = [f'<g><title>{escape(title)}</title><rect x="{left:.1f}" y="{-(level + 1) * ROW}" '
             f'width="{width:.1f}" height="{ROW - 1}" fill="{colour}"/>{label}</g>']
    for callee in sorted(box.callees.values(), key=lambda one: one.name):
        drawn += boxes(callee, left, level + 1, scale, look)
        left += callee.width() * scale
    return drawn


def rows_drawn(box):
    """The number of rows that boxes() draws."""
    if box.width() < LEAST:
        return 0
    return 1 + max((rows_drawn(one) for one in box.callees.values()), default=0)


def svg(root, title, look, legend, width=WIDTH):
    """legend: [(colour, text)]"""
    scale = (width - 2 * MARGIN) / root.width()
    rows = rows_drawn(root)
    height = (rows + 2) * ROW + 2 * MARGIN
    keys, left = [], MARGIN
    for colour, text in legend:
        keys.append(f'<rect x="{left}" y="5" width="10" height="10" fill="{colour}" '
                    f'stroke="#888888"/><text x="{left + 13}" y="14">{escape(text)}</text>')
        left += 24 + round(len(text) * LETTER)
    return (f'<svg class="flame" xmlns="http://www.w3.org/2000/svg" role="img" '
            f'viewBox="0 {-rows * ROW - ROW - MARGIN} {width} {height}" '
            f'font-family="sans-serif" font-size="{FONT}">'
            f'<text x="{MARGIN}" y="{-rows * ROW - MARGIN}" font-size="11" font-weight="bold">'
            f'{escape(title)}</text>' + "\n".join(boxes(root, MARGIN, 0, scale, look))
            + "".join(keys) + "</svg>")


def pair(study, raw, without, with_):
    """SVG of both cells' profiles and of their difference; none where either has no chains."""
    (before, n_before), (after, n_after) = (stacks(study, raw, cell) for cell in (without, with_))
    if not (before and after):
        return []
    legend = [(SPINS, "spins for a lock"), (TAKES, "takes or waits for a lock"),
              (PLAIN[0], "all else")]
    return [svg(tree(before), f"without: {without} (n = {n_before})", plain, legend),
            svg(tree(after), f"with: {with_} (n = {n_after})", plain, legend),
            svg(tree(before, after), f"difference: {with_} against {without}", changed,
                [(mixed(LESS, DEEPEST), "less with Fastsocket"), ("#ffffff", "the same"),
                 (mixed(MORE, DEEPEST), "more with Fastsocket")], WIDE)]
