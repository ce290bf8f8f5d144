# SPDX-License-Identifier: GPL-2.0-only
"""A run for tables, figures and reports: its samples, and the ratios between cells."""
import functools

import pandas as pd

import contract
import intervals
import samples
import tools
from factors import TITLES

AGAIN = "again"
LOAD = ["tool", "concurrency", "workers"]


class Study:
    """A run's folder, read once.

    run, facts, plan  the folder, its run.json, and the plan in it
    rows              samples.read()
    cells             a DataFrame: cell and the factors, as the experiment lists the levels
    """

    def __init__(self, run):
        self.run = run
        self.facts = contract.read_run(run)
        self.plan = self.facts["plan"]
        self.rows = samples.read(run)
        self.valid = self.rows[self.rows["valid"] == 1]
        self.cells = self._cells()

    def _cells(self):
        factors = self.plan["factors"]
        cells = pd.DataFrame(contract.read_plan(self.run)).drop_duplicates("cell")
        for factor in factors:
            cells[factor] = cells[factor].astype(self.rows[factor].dtype)
        order = {factor: {str(level): i for i, level in enumerate(levels)}
                 for factor, levels in factors.items()}
        names = [*list(factors)[1:], list(factors)[0]]
        key = cells[names].apply(lambda column: column.map(
            lambda level: order[column.name][str(level)]))
        return cells.loc[key.sort_values(names).index, ["cell", *factors]].reset_index(drop=True)

    def title(self, setup):
        """The name of a setup in tables."""
        return self.plan["setups"][setup].get("text", TITLES.get(setup, setup))

    def each(self):
        """What counts are per, in words: a tool may send many requests on a connection."""
        lasting = not all(tools.TOOLS[tool].connection_each for tool in self.cells["tool"].unique())
        return "request" if lasting else "connection"

    def loads(self):
        """Cells by tool, concurrency and workers: ((tool, ...), cells) each."""
        return self.cells.groupby(LOAD, sort=False)

    def cell_of(self, load, setup):
        """The cell's name, or None where the plan has no such cell."""
        found = self.cells[(self.cells["setup"] == setup)
                           & (self.cells[LOAD] == list(load)).all(axis=1)]
        return found["cell"].iloc[0] if len(found) else None

    def baseline(self, cell):
        """The name of the cell with which a row of cells is compared, or None."""
        return samples.baseline(self.plan, cell, self.cells)

    def own(self, cell, kind=None):
        """Valid repetitions of a cell."""
        rows = self.valid[self.valid["cell"] == cell]
        return rows if kind is None else rows[rows["kind"] == kind]

    def values(self, cell, metric):
        """Values of the timed repetitions, or, if these do not have the metric, of those that
        watched.
        """
        own = self.own(cell)
        timed = own.loc[own["kind"] == "timed", metric].dropna()
        return timed if len(timed) else own[metric].dropna()

    def median(self, cell, metric):
        """(median, low, high), or None where nothing was measured."""
        values = self.values(cell, metric) if metric in self.rows else []
        return intervals.median(values) if len(values) else None

    @functools.lru_cache(maxsize=None)
    def ratio(self, cell, base, metric):
        """A Ratio of the rounds that have both, or None where there is none."""
        if base is None or cell is None:
            return None
        pairs = samples.pairs(self.valid, cell, base, metric)
        return intervals.ratio(pairs["ratio"], pairs["boot"]) if len(pairs) else None

    @functools.cached_property
    def declared(self):
        """[(cell without, cell with)] of the experiment's pairs, at every load."""
        pairs = [[self.cell_of(load, setup) for setup in pair] for load, _ in self.loads()
                 for pair in self.roles]
        return [tuple(pair) for pair in pairs if all(pair)]

    @property
    def roles(self):
        """[[setup without, setup with]] of the experiment; runs that say nothing of it have the
        names that were the rule until 27 November 2026."""
        plan = self.plan
        own = [[plan["without"], plan["with"]]] if "with" in plan else []
        return own + plan.get("pairs", []) or [["shared", "fastsocket"]]

    @functools.cached_property
    def verdicts(self):
        """{cell: word of intervals.verdicts} of requests/s against each cell's baseline.

        What the experiment declares as its pairs is corrected for the number of these;
        all other cells, which are looked at besides, for the number of those. Neither
        baselines nor the null cell are compared.
        """
        words = {}
        chosen = [(cell["cell"], base) for cell in self.cells.to_dict("records")
                  for base in [self.baseline(cell)]
                  if base not in (None, cell["cell"]) and cell["setup"] != AGAIN]
        for first in (True, False):
            family = [(cell, base) for cell, base in chosen
                      if ((base, cell) in self.declared) == first]
            ratios = [self.ratio(cell, base, "throughput_rps") for cell, base in family]
            words.update(zip([cell for cell, _ in family], intervals.verdicts(ratios)))
        return words

    def numbers(self, cell):
        """The numbers of a cell's repetitions: valid and invalid timed ones, and others."""
        rows = self.rows[self.rows["cell"] == cell]
        timed = rows[rows["kind"] == "timed"]
        valid = timed["valid"] == 1
        watched = rows[rows["valid"] == 1]["kind"].value_counts()
        return {"n_valid": int(valid.sum()), "n_invalid": int((~valid).sum()),
                "n_degraded": int((valid & (timed["degraded"] != "")).sum()),
                **{f"n_{kind}": int(watched.get(kind, 0)) for kind in samples.KINDS.values()}}

    def null_pair(self):
        """The two cells that are the same, or None: the null cell, or one whose setup is."""
        setups, base = self.plan["setups"], self.plan["baseline"]["setup"]

        def facts(name):
            return {key: value for key, value in setups[name].items() if key != "text"}

        for cell in self.cells.to_dict("records"):
            if cell["setup"] != base and facts(cell["setup"]) == facts(base):
                return cell["cell"], self.baseline(cell)
        return None

    def emulated(self):
        """Whether what is timed is; where the lab has KVM, only what is counted is emulated."""
        return contract.server_of(self.facts).get("accelerator") == "tcg"

    def blind(self):
        """Whether profiles cannot see code that runs with interrupts off. Runs that do not say what
        took their samples had a timer."""
        return self.facts.get("server", {}).get("profile_event", "cpu-clock") == "cpu-clock"

    def host(self):
        """The place of measuring, in words for tables and figures."""
        server = contract.server_of(self.facts)
        real = self.facts.get("loadgen", {}).get("cores", "?")
        kernel = server.get("kernel", "an unknown kernel").removesuffix("-amd64")
        if self.emulated():
            cores = "core" if server["cores"] == "1" else "cores"
            return f"{server['cores']} emulated {cores} on {real} real ones, Linux {kernel}"
        return f"{server.get('cpu_model', 'unknown CPU')}, {server.get('cores', '?')} cores, " \
               f"Linux {kernel}{', counted under an emulator' if 'counting' in self.facts else ''}"
