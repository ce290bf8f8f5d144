# SPDX-License-Identifier: GPL-2.0-only
"""Factors that are settings of the server: parameter:NAME, of the module, sysctl:NAME, and kernel.

Their levels are set on top of what the setups say, and become setups of their own, which are
called SETUP+NAME=LEVEL. So the columns of the result files are the same in every run, samples.csv
names the level in its column setup, and tables and figures need no special case. The settings are
read back before each load like all others: a row is valid only if the server ran with them.

A kernel is a boot of its own (boots.py), and repetitions of different boots are not compared. So
each setup is compared with its usual baseline on the same kernel, and each kernel has its pairs.
"""
import itertools
import re

import boots
import contract
from tools import TOOLS

# The factors that are columns of plan.csv and samples.csv.
COLUMNS = {"setup", "tool", "concurrency", "workers"}
# kind: the key of a setup that gets the levels.
KINDS = {"parameter": "parameters", "sysctl": "sysctls"}
KERNEL = "kernel"
# The name of the factor concurrency if it is the rate of an open loop.
RATE = "rate"
# The name of the factor workers if each level is a boot of the server with as many cores.
CORES = "cores"
# Keys of an experiment that choose cells: mappings of factor: level, or list of levels.
CHOOSING = ("perf", "locks", "counts", "decides")
# The texts of setups that do not give one themselves.
TITLES = {"shared": "without: shared listener", "fastsocket": "with Fastsocket",
          "exclusive": "EPOLLEXCLUSIVE", "reuseport": "SO_REUSEPORT",
          "cbpf": "SO_REUSEPORT + cBPF", "kernel": "library without the module"}


class PlanError(Exception):
    """Bad input, in one sentence."""


def known(what, given, allowed):
    for name in given:
        if name not in allowed:
            raise PlanError(f"{what} {name}: there is none of that name: "
                            f"give one of {', '.join(sorted(map(str, allowed)))}")


def module_parameters():
    """The module's source is the one place that names its parameters."""
    source = (contract.ROOT / "kmod" / "params.c").read_text(encoding="utf-8")
    return set(re.findall(r"^(?:module_param|module_param_cb|PARAM)\w*\((\w+)", source, re.M))


def is_setting(factor):
    """Whether it is parameter:NAME, sysctl:NAME or kernel."""
    return factor == KERNEL or factor.partition(":")[0] in KINDS and ":" in factor


def named(factor):
    return factor.partition(":")[2] or factor


def check_names(factors):
    """The factors among all of an experiment that are settings."""
    for factor in factors:
        kind, _, name = factor.partition(":")
        if not is_setting(factor):
            known("factor", [factor], COLUMNS | {RATE, CORES, KERNEL} | {
                f"{one}:NAME" for one in KINDS})
        elif kind == "parameter":
            known("parameter", [name], module_parameters())
        elif factor != KERNEL and not re.fullmatch(r"\w[\w-]*(\.[\w-]+)+", name):
            raise PlanError(f"{factor}: give the name of a sysctl, with dots")


def check_levels(factor, levels):
    for level in levels:
        if levels.count(level) > 1:
            raise PlanError(f"{factor}: level {level} is given twice: give each level once")
        if factor.startswith("parameter:") and (not isinstance(level, int) or level < 0):
            raise PlanError(f"{factor}: level {level}: give whole numbers from 0")
        if factor == KERNEL and not re.fullmatch(r"\d+\.\d+", str(level)):
            raise PlanError(f"kernel: level {level}: give versions as 6.1")
        if factor.startswith("sysctl:") and not re.fullmatch(r"[\w.+-]+", str(level)):
            raise PlanError(f"{factor}: level {level}: give values of one word, of letters, "
                            "digits, and . + - _")


def concerns(factor, setup):
    """Returns whether a setup, a mapping, differs between the factor's levels. Parameters have no
    effect on setups without the module."""
    return not factor.startswith("parameter:") or (
        bool(setup.get("preload")) and setup.get("backend", "module") == "module")


def check_cores_alone(given):
    """Raises PlanError if cores is given, in a file or by --set, and what it says is given, too."""
    for other in ("workers", "server_cores"):
        if CORES in given and other in given:
            raise PlanError(f"cores and {other}: a server has as many workers as cores at each "
                            f"level of cores: leave {other} out")


def cores_to_workers(experiment):
    """Puts the factor cores of a file where result files have it, in place: in the column workers,
    with a server that is booted with as many cores."""
    if CORES in experiment["factors"]:
        check_cores_alone({*experiment, *experiment["factors"]})
        respell(experiment, CORES, "workers")
        experiment["server_cores"] = boots.AS_WORKERS


def respell(experiment, old, new):
    """Calls a factor by another name wherever an experiment has it, in place."""
    def renamed(wanted):
        return {new if factor == old else factor: level for factor, level in wanted.items()}

    for key in ("factors", "baseline", *CHOOSING):
        if key in experiment:
            experiment[key] = renamed(experiment[key])
    if "skip" in experiment:
        experiment["skip"] = [renamed(wanted) for wanted in experiment["skip"]]


def rate_to_column(experiment):
    """Puts the factor rate where result files have it, in place: in the column concurrency. An
    open loop has no number of connections at a time, and a closed one no rate."""
    known("tool", experiment["factors"].get("tool", []), TOOLS)
    opens = {tool: TOOLS[tool].open_loop for tool in experiment["factors"].get("tool", [])}
    if RATE not in experiment["factors"]:
        for tool in (tool for tool, is_open in opens.items() if is_open):
            raise PlanError(f"{tool} is told a rate: give the factor rate, connections per second, "
                            "in an experiment that has it, such as latency")
        return
    for tool in (tool for tool, is_open in opens.items() if not is_open):
        raise PlanError(f"{tool} cannot be told a rate: give one of "
                        f"{', '.join(sorted(name for name in TOOLS if TOOLS[name].open_loop))}")
    if "concurrency" in experiment["factors"]:
        raise PlanError("rate and concurrency: an open loop has no number of connections at a "
                        "time: leave concurrency out")
    for rate in experiment["factors"][RATE]:
        if not isinstance(rate, int) or rate < 1:
            raise PlanError(f"rate {rate}: give whole numbers from 1, in connections per second")
    respell(experiment, RATE, "concurrency")


class Spread:
    """The setups of one experiment at the levels of its settings.

    levels  {factor: list of levels}; base: {factor: the level that others are compared with}
    made    {setup: [(name at these levels, {factor: level} of those that concern it)]}
    """

    def __init__(self, experiment, levels):
        self.experiment = experiment
        self.levels = levels
        named_base = experiment["baseline"]
        self.base = {factor: named_base.get(factor, some[0]) for factor, some in levels.items()}
        self.old = experiment["setups"]
        known("setup", experiment["factors"].get("setup", []), self.old)
        self.made = {name: self.variants(name) for name in experiment["factors"].get("setup", [])}
        for factor in levels:
            if self.base[factor] not in levels[factor]:
                raise PlanError(f"{factor}: the baseline's level {self.base[factor]} is not among "
                                f"the levels: add it, or give another under baseline")
            if not any(concerns(factor, self.old[name]) for name in self.made):
                raise PlanError(f"{factor}: no setup that is measured runs under the library with "
                                "the module: add one with preload: true to the factor setup")

    def variants(self, name):
        own = [factor for factor in self.levels if concerns(factor, self.old[name])]
        return [("+".join([name, *(f"{named(factor)}={level}"
                                   for factor, level in zip(own, some))]), dict(zip(own, some)))
                for some in itertools.product(*(self.levels[factor] for factor in own))]

    def at(self, name, levels):
        """The setup's name at these levels; leaves out those that do not concern it."""
        for made, own in self.made.get(name, []):
            if all(levels[factor] == level for factor, level in own.items()):
                return made
        return name

    def at_base(self, name, levels=()):
        """At the base levels, but on the kernel of levels, a mapping."""
        own = {KERNEL: levels[KERNEL]} if KERNEL in levels else {}
        return self.at(name, {**self.base, **own})

    def on_each_kernel(self, names):
        """Lists of these setups at the base levels, one for each kernel."""
        return [[self.at_base(name, {KERNEL: kernel}) for name in names]
                for kernel in self.levels.get(KERNEL, [None])]

    def setup(self, name, levels):
        """The setup at these levels, a mapping."""
        old = self.old[name]
        new = dict(old)
        if levels:
            new["text"] = ", ".join([old.get("text", TITLES.get(name, name)), *(
                f"{named(factor)} {level}" for factor, level in levels.items())])
        for factor, level in levels.items():
            key = KINDS.get(factor.partition(":")[0])
            new[key or KERNEL] = {**new.get(key, {}), named(factor): level} if key else level
        against = [self.at(one, {**self.base, **levels}) for one in old.get("against", [])]
        usual = old.get("baseline", self.experiment["baseline"]["setup"])
        if any(levels[factor] != self.base[factor] for factor in levels if factor != KERNEL):
            # The level is compared with the base level, and the setup also with its usual baseline.
            other = self.at(usual, {**self.base, **levels})
            new["baseline"] = self.at_base(name, levels)
            against += [other] if other != self.at(name, {**self.base, **levels}) else []
            new.pop("idea", None)
            new.pop("successor", None)
        elif "baseline" in old or KERNEL in levels:
            new["baseline"] = self.at_base(usual, levels)
        if against:
            new["against"] = list(dict.fromkeys(against))
        return new

    def chosen(self, wanted):
        """A mapping of factor: level or levels, as one of the factors that are columns."""
        settings = {factor: level if isinstance(level, list) else [level]
                    for factor, level in wanted.items() if is_setting(factor)}
        known("factor", settings, self.levels)
        if not settings and "setup" not in wanted:
            return wanted
        names = wanted.get("setup", list(self.made))
        names = [names] if isinstance(names, str) else names
        return {**{factor: level for factor, level in wanted.items() if factor not in settings},
                "setup": [made for name in names for made, own in self.made.get(name, [])
                          if all(own.get(factor) in some for factor, some in settings.items())]}


def spread(experiment):
    """Makes setups of the levels of parameter:NAME and sysctl:NAME, in place."""
    factors = experiment["factors"]
    levels = {factor: factors[factor] for factor in factors if is_setting(factor)}
    known("baseline: factor", experiment["baseline"], COLUMNS | set(levels))
    if not levels:
        return
    for factor, some in levels.items():
        check_levels(factor, some)
    one = Spread(experiment, levels)
    experiment["setups"] = {
        **{name: setup for name, setup in one.old.items() if name not in one.made},
        **{made: one.setup(name, own)
           for name, variants in one.made.items() for made, own in variants}}
    experiment["factors"] = {factor: some for factor, some in factors.items()
                             if factor not in levels}
    experiment["factors"]["setup"] = [made for variants in one.made.values()
                                      for made, _ in variants]
    experiment["baseline"] = {factor: level for factor, level in experiment["baseline"].items()
                              if factor not in levels}
    experiment["baseline"]["setup"] = one.at_base(experiment["baseline"]["setup"])
    rename(experiment, one)


def rename(experiment, one):
    """Names of setups in all other keys of an experiment become those of a Spread, in place."""
    for key in CHOOSING:
        if key in experiment:
            experiment[key] = one.chosen(experiment[key])
    if "skip" in experiment:
        experiment["skip"] = [one.chosen(wanted) for wanted in experiment["skip"]]
    # The first kernel's setups without and with keep their role; those of the others are pairs.
    own = [[experiment[key] for key in ("without", "with")]] if "with" in experiment else []
    pairs = [made for pair in own + experiment.get("pairs", [])
             for made in one.on_each_kernel(pair)]
    if own:
        experiment["without"], experiment["with"] = pairs.pop(0)
    if pairs:
        experiment["pairs"] = pairs
    times = experiment["reference"].get("time_s")
    if times:
        experiment["reference"]["time_s"] = {one.at_base(name): time
                                             for name, time in times.items()}
