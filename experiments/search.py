# SPDX-License-Identifier: GPL-2.0-only
"""Searches for a load that saturates the server: before a run's repetitions it makes short loads,
which grow until the server answers no more requests, and finds what was the limit then.

There is one search for each tool, with the most connections and the most workers that are measured:
what is enough for these is enough for fewer. (Where each number of workers is a boot of its own, in
each boot.) Its setups are loaded one after the other, and each begins with the load at which the
one before has ended. So the search chooses the most processes that any setup can use, and all
setups get as many: a load found for each setup, or with a slow one, would favour some setups.

The search chooses the number of processes, or of wrk's threads. Connections are a factor and stay
as planned; the search raises them only to tell which number would be enough.
"""
from typing import NamedTuple

import boots
import contract
import measure
import proc
import servers
import sources
import verdicts
from hosts import LoadError
from study import AGAIN
from tools import GARBLED, TOOLS

# A larger load is better if it multiplies the requests per second by this.
GROWTH = 1.05
# A step should last STEP_S, lasts at least LEAST_S, and may last LIMIT_S. The first steps make
# FIRST requests; later ones compute the number of requests from the rate of the step before.
STEP_S = 2
LEAST_S = 1
LIMIT_S = 120
FIRST = 1000
# The most connections that one process of ab may open.
MOST_CONNECTIONS = 20000

# The limits that end a search, for reports and messages.
LIMITS = {
    "server": "with {load} the server was {server:.0f} % busy: that is enough, with at least as "
              "many connections (concurrency={concurrency})",
    "generator": "the load generator's busiest core, or {tool} itself, was {generator:.0f} % busy, "
                 "with {load}: give more hosts in the group loadgen",
    "nothing": "{load} failed ({fault})",
    "failed": "with {load} the server was {server:.0f} % busy, and a larger load failed ({fault}): "
              "give more hosts in the group loadgen",
    "ports": "with {load} the server was {server:.0f} % busy, and more connections have no source "
             "port: {remedy}",
    "unknown": "with {load} the server was {server:.0f} % busy, the load generator's busiest core "
               "{generator:.0f} %, and a larger load brought no more requests: look at the network "
               "between them and at the queues of their NICs, or give more hosts in the group "
               "loadgen",
}


class Step(NamedTuple):
    """A load, and its result."""
    processes: int          # on each load generator; of wrk, threads
    concurrency: int        # connections, of all load generators
    rate: float = 0         # requests per second
    server: float = 0       # how busy its cores were, %
    generator: float = 0    # how busy the busiest of them was, %
    fault: str = ""         # why there is no rate

    @property
    def choked(self):
        """Whether repetitions with this load would be invalid because of the load generator."""
        return self.generator > verdicts.LOADGEN_BUSY_MAX

    @property
    def enough(self):
        return not self.fault and not self.choked and self.server >= verdicts.SATURATED_MIN


def better(step, best):
    if step.fault:
        return False
    return step.rate > GROWTH * best.rate or (
        best.choked and not step.choked and step.rate * GROWTH > best.rate)


def limit_of(best, fault):
    """A name in LIMITS. fault: of a larger load, or ""."""
    if best.enough:
        return "server"
    if best.fault:
        return "nothing"
    if fault:
        return "ports" if fault.startswith(sources.OUT) else "failed"
    return "generator" if best.choked else "unknown"


def due(plan, lab):
    """Whether a sufficient load is searched for."""
    return bool(plan.get("search", plan["saturates"] and not lab and "processes" not in plan))


def planned(plan, facts, steps, rows=()):
    """[(tool, workers, connections, setups)] that are to be searched before these steps. rows: of
    samples.csv; what has begun without a search goes on as it began."""
    timed = [step for step in steps if step["repetition"].isdigit()]
    if boots.by_workers(plan):
        timed = [step for step in timed if step["workers"] == steps[0]["workers"]]
        rows = [row for row in rows if row["workers"] == steps[0]["workers"]]
    begun = {row["tool"] for row in rows if row["repetition"].isdigit()}
    timed = [step for step in timed if step["tool"] not in begun]
    found = []
    for tool in dict.fromkeys(step["tool"] for step in timed if not TOOLS[step["tool"]].open_loop):
        own = [step for step in timed if step["tool"] == tool]
        most = max(own, key=lambda step: int(step["workers"]))
        if entry_of(facts, most) is None:
            found.append((tool, int(most["workers"]), max(int(step["concurrency"]) for step in own),
                          [setup for setup in plan["factors"]["setup"] if setup != AGAIN
                           and any(step["setup"] == setup for step in own)]))
    return found


def entry_of(facts, step):
    """The result for a step's tool and workers in run.json, or None."""
    found = [entry for entry in facts.get("loads", [])
             if entry["tool"] == step["tool"] and entry["workers"] >= int(step["workers"])]
    return min(found, key=lambda entry: entry["workers"], default=None)


def chosen(facts, step):
    """Returns the processes on each load generator, or None if no search has chosen them."""
    return (entry_of(facts, step) or {}).get("processes")


class Search:
    """One search. sweep: run.py's, whose hosts are used."""

    def __init__(self, sweep, tool, workers, concurrency):
        self.sweep = sweep
        self.tool = TOOLS[tool]
        self.workers = workers
        self.hosts = len(sweep.loadgen.hosts)
        self.cores = min(sweep.generator_cores())
        self.amount = STEP_S if self.tool.by_seconds else FIRST
        self.start = Step(1, concurrency)
        self.ports = MOST_CONNECTIONS       # source ports of a load generator
        self.limits = {}

    def more_processes(self, load):
        """The next larger load, or None."""
        most = min(self.cores if self.tool.units else 1, load.concurrency // self.hosts)
        wanted = min(2 * load.processes, most)
        return Step(wanted, load.concurrency) if wanted > load.processes else None

    def more_connections(self, load):
        wanted = min(2 * load.concurrency, MOST_CONNECTIONS, self.ports * self.hosts)
        return Step(load.processes, wanted) if wanted > load.concurrency else None

    def climb(self, setup):
        """(the load that is enough for a setup, why a larger one failed or "")

        Processes and connections grow in turn, until neither brings more requests.
        """
        best = before = self.step(setup, self.start)
        tried, fault = {best[:2]}, best.fault
        while not best.fault:
            for more in (self.more_processes, self.more_connections):
                load = best
                while (load := more(load)) and load[:2] not in tried:
                    load = self.step(setup, load)
                    tried.add(load[:2])
                    if better(load, best):
                        best, fault = load, ""
                        continue
                    fault = load.fault or fault
                    # More processes may yet relieve a load generator that is the limit.
                    if load.fault or not best.choked or load.processes == best.processes:
                        break
                # Connections beyond those that are planned tell what would be enough.
                if best.enough:
                    return best, fault
            if best is before:
                break
            before = best
        return best, fault

    def step(self, setup, load):
        """Makes and records one load; returns it as a Step."""
        words = {"setup": setup, "tool": self.tool.name, "concurrency": load.concurrency,
                 "workers": self.workers}
        for _ in range(3):
            self.amount = max(self.amount, 0 if self.tool.by_seconds else 2 * load.concurrency)
            metrics, fault = self.applied(words, load.processes)
            if fault or self.tool.by_seconds:
                break
            self.amount = round(STEP_S * metrics["throughput_rps"])
            if metrics["time_s"] >= LEAST_S:
                break
        made = load if fault else load._replace(
            rate=metrics["throughput_rps"], server=metrics["server_busy_pct"],
            generator=metrics["loadgen_busy_pct"])
        made = made._replace(fault=fault or "")
        self.record({**words, "processes": load.processes, "fault": made.fault, **(
            {name: metrics[name] for name in contract.SEARCH if name in metrics})})
        return made

    def applied(self, words, processes):
        """(metrics of one load, why there are none or None)"""
        sweep = self.sweep
        try:
            before = proc.sections(sweep.server.run("counters"))
            loads = sweep.load(words, self.amount, LIMIT_S, processes)
            after = proc.sections(sweep.server.run("counters"))
            metrics, reason = measure.sample(words, {**sweep.plan, "saturates": False}, loads,
                                             before, after, None, sweep.lab)
        except LoadError as error:
            return {}, str(error)
        except GARBLED as error:
            return {}, f"what was recorded is not complete: {error!r}"
        if "loadgen_busy_pct" not in metrics:
            return {}, reason
        if sweep.lab:
            metrics["server_busy_pct"] = round(measure.machine_busy(
                loads[0], metrics["server_busy_pct"]), 1)
        sweep.ports.note(self.tool, words, metrics, loads,
                         servers.of(sweep.setup(words["setup"])).forwards)
        self.ports = min((most for most in map(sources.capacity, loads) if most),
                         default=MOST_CONNECTIONS)
        if metrics["failed"] or not metrics["requests"]:
            return metrics, reason
        return metrics, None

    def record(self, row):
        path = self.sweep.run / "search.csv"
        row["step"] = len(contract.read_csv(path)) + 1
        contract.append_row(path, {name: row.get(name, "") for name in contract.SEARCH},
                            list(contract.SEARCH))
        what = row["fault"] or (f"{row['throughput_rps']:.0f} requests/s, the server "
                                f"{row['server_busy_pct']} % busy, the load generator "
                                f"{row['loadgen_busy_pct']} %")
        print(f"[search {row['step']}] {row['setup']}, "
              f"{amount(self.tool, row['processes'], row['concurrency'])}: {what}", flush=True)

    def of(self, setup):
        """Searches with one setup; later ones begin with its processes."""
        sweep = self.sweep
        sweep.start_server(sweep.setup(setup), self.workers, lambda _name, content: content)
        best, fault = self.climb(setup)
        if not fault and best.concurrency >= self.ports * self.hosts:
            fault = sources.OUT
        self.limits[setup] = {"limit": limit_of(best, fault), **best._asdict(), "fault": fault}
        self.start = self.start._replace(processes=max(self.start.processes, best.processes))

    def entry(self):
        """Returns this search's entry of run.json."""
        had = any(found["rate"] for found in self.limits.values())
        return {"tool": self.tool.name, "workers": self.workers,
                "processes": self.start.processes if had and self.tool.units else None,
                "limits": self.limits}


def search(sweep, steps):
    """Makes all searches that a run needs before these steps, and writes them to run.json."""
    if not due(sweep.plan, sweep.lab):
        return
    for tool, workers, concurrency, setups in planned(
            sweep.plan, sweep.facts, steps, contract.read_samples(sweep.run)):
        one = Search(sweep, tool, workers, concurrency)
        for setup in setups:
            one.of(setup)
        sweep.facts.setdefault("loads", []).append(one.entry())
        contract.write_run(sweep.run, sweep.facts)
        print("\n".join(ends(one.entry(), setups)), flush=True)


def counted(tool, processes):
    single = {"processes": "process", "threads": "thread"}[tool.units]
    which = single if processes == 1 else tool.units
    return f"{processes} {which} of {tool.name} on each load generator"


def amount(tool, processes, concurrency):
    """A load in words."""
    return (f"{counted(tool, processes)} and " if tool.units else "") + f"{concurrency} connections"


def ends(entry, setups):
    """Sentences about the limit that ended the search with these setups, one for each limit."""
    found = {}
    for setup in setups:
        if setup in entry["limits"]:
            found.setdefault(entry["limits"][setup]["limit"], []).append(setup)
    for name, same in found.items():
        # If there are several, the one that comes farthest is reported.
        step = max((entry["limits"][setup] for setup in same), key=lambda one: one["rate"])
        load = amount(TOOLS[entry["tool"]], step["processes"], step["concurrency"])
        yield f"{', '.join(same)}: " + LIMITS[name].format(
            **step, tool=entry["tool"], load=load, remedy=sources.remedy(TOOLS[entry["tool"]]))


def chosen_text(facts):
    """The choices of the searches, a sentence, or ""."""
    found = {(entry["tool"], entry["processes"]) for entry in facts.get("loads", [])
             if entry["processes"]}
    return "".join(f" A search chose {counted(TOOLS[tool], processes)}."
                   for tool, processes in sorted(found))


def remedies(facts, lost):
    """Text of the search about those repetitions, mappings, that lacked load."""
    setups = {}
    for step in lost:
        if not str(step["invalid_reason"]).startswith(verdicts.SHORT_OF_LOAD):
            continue
        entry = entry_of(facts, step)
        if entry:
            setups.setdefault((entry["tool"], entry["workers"]), (entry, {}))[1][step["setup"]] = 1
    return "; ".join(text for entry, names in setups.values() for text in ends(entry, names))
