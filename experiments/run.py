#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs what plan.py planned: one repetition after the other, until none is left.

A finished repetition is a row of samples.csv at once; killed at any moment, the next
start goes on after it. Stopped by Ctrl-C, it stops the server first (exit status 130).

The hosts are described in JSON:
  {"inventory": name, "lab": bool, "address": where the server listens, "nic": with what,
   "counts": true if this boot of the lab is for what is counted only (optional),
   "server": [words that run one shell command, to be appended, on the server],
   "loadgen": [[the same for a load generator], ...],
   "sources": [[addresses that a load generator connects from], ...] (optional: of each one; none:
              that of its route to the server),
   "states": [folder on the server for records of settings, on each load generator] (optional:
              the hosts are held for this sweep, and put back what was changed if it dies),
   "backend": {"program": the demo server on the load generator's host, "address": IP:PORT
               where it is to listen for proxies, "state": folder for its pid and log}}
lab true: both share this machine, and its cores, not the server's, tell saturation.
"""
import argparse
import datetime
import fcntl
import functools
import ipaddress
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import boots
import conditions
import contract
import counted
import counts
import holding
import measure
import proc
import profiles
import search
import servers
import sources
import stopping
import tools
from hosts import Generators, Host, LoadError, RunError
from study import Study

# Repetitions that are watched, by the first letter of their names, and not timed.
WATCHED = {"p": "perf", "l": "locks"}
COUNTED = "c"


def now_utc():
    return datetime.datetime.now(datetime.timezone.utc)


def separated(commands):
    """Words of load.sh for commands at a time."""
    return [str(word) for command in commands for word in ("--", *command)]


class Sweep:
    """A run and its two hosts."""

    # The counter, once a repetition has counted.
    counter = None
    # In which the server's cores get workers; empty: 0, 1, 2...
    order_of_cores = ()
    # Of each load generator the addresses that it connects from, where it is told.
    sources = ()

    def __init__(self, run, hosts):
        self.run = run
        self.facts = contract.read_run(run)
        self.plan = self.facts["plan"]
        self.columns = contract.sample_columns(self.plan["factors"])
        self.server = Host("the server", hosts["server"], "server.sh")
        self.loadgen = Generators(hosts["loadgen"])
        self.lab = hosts["lab"]
        self.only_counts = hosts.get("counts", False)
        self.address = hosts["address"]
        self.nic = hosts["nic"]
        self.backend = hosts["backend"]
        self.check_address()
        self.check_generators()
        # An emulated lab has no settings that are worth restoring, and is interrupted often.
        self.held = holding.hold([self.server, *self.loadgen.hosts], hosts.get("states", []),
                                 restores=not self.lab)
        try:
            self.prepare(hosts)
        except BaseException as error:
            holding.release(self.held, not isinstance(error, KeyboardInterrupt))
            raise

    def prepare(self, hosts):
        self.check_sources(hosts.get("sources", []))
        self.order = self.open_samples()
        # This loads the module, which is one of the server's facts.
        self.parameters = self.module_defaults()
        self.record_hosts(hosts["inventory"])
        if any(servers.of(self.setup(level)).forwards
               for level in self.plan["factors"]["setup"]):
            self.loadgen.run("backend", *(self.backend[word]
                                          for word in ("program", "address", "state")))

    @functools.cached_property
    def ports(self):
        return sources.Forecast()

    def setup(self, name):
        return self.plan["setups"][name]

    def check_address(self):
        """The suite's servers listen at addresses of IPv4 only, and httperf knows no others."""
        try:
            ipaddress.IPv4Address(self.address)
        except ValueError as error:
            raise RunError(f"bench_address {self.address}: give an IPv4 address of the server in "
                           "the inventory") from error

    def check_generators(self):
        """Raises RunError if there are fewer connections than load generators."""
        least = min(self.plan["factors"]["concurrency"])
        if least < len(self.loadgen.hosts):
            raise RunError(f"concurrency {least}: fewer connections than load generators, "
                           f"{len(self.loadgen.hosts)}: give more connections, or leave hosts out "
                           "of the inventory's group loadgen")

    def check_sources(self, addresses):
        if not all(isinstance(own, list) for own in addresses) or len(addresses) not in (
                0, len(self.loadgen.hosts)):
            raise RunError("bench_source_addresses: give a list of addresses for each load "
                           "generator in the inventory")
        if any(addresses):
            for host, own in zip(self.loadgen.hosts, addresses):
                host.run("addresses", *own)
            self.sources = self.facts["sources"] = addresses

    def module_defaults(self):
        """By name, the values of parameters that a setup does not name."""
        lines = self.server.run("defaults").decode().splitlines()
        return dict(line.split(" ", 1) for line in lines)

    def stop(self):
        self.server.run("stop")
        self.loadgen.run("stop", self.backend["state"])

    def open_samples(self):
        """Drops rows cut short by a kill, and says how many there are.

        A run that an older version began gets the columns that have come since.
        """
        path = self.run / "samples.csv"
        if not path.exists():
            contract.write_file(path, ",".join(self.columns) + "\n")
        rows = contract.read_samples(self.run)
        known = [{name: row.get(name, "") for name in self.columns} for row in rows]
        whole = [",".join(self.columns) + "\n",
                 *(contract.csv_line(row, self.columns) for row in known)]
        if path.read_bytes() != "".join(whole).encode():
            contract.write_file(path, "".join(whole))
        return len(rows)

    def record_hosts(self, inventory):
        server = self.server.facts(self.nic, *servers.packages())
        self.order_of_cores = tuple(map(int, server.get("core_order", "").split()))
        steps = contract.unfinished(self.run)
        first = self.order + 1
        boot = {"boot_id": server.pop("boot_id"), "first_order": first,
                **conditions.check_cores(self.plan, server, steps),
                **conditions.check_kernel(self.plan, server, steps)}
        facts = self.facts
        if self.lab:
            server["accelerator"] = counts.accelerator()
            boot["emulator"] = counts.emulator()
            if self.only_counts:
                boot["counts"] = True
                facts = facts.setdefault("counting", {})
            elif server["accelerator"] == "kvm":
                boot["counts"] = False
        conditions.record_server(facts, server, first)
        conditions.record_generators(self.facts, self.loadgen.facts(
            self.address, *tools.packages()), first)
        self.facts.setdefault("inventory", inventory)
        self.facts.setdefault("command", conditions.command(self.facts, inventory))
        conditions.record_sources(self.facts, self.run, first)
        # Repetitions of different boots are never compared: see summarise.py.
        known = self.facts.setdefault("boots", [])
        if (not known or known[-1]["boot_id"] != boot["boot_id"]
                or steps and self.another_boot(steps[0])):
            known.append(boot)
        contract.write_run(self.run, self.facts)

    def append(self, row):
        contract.append_row(self.run / "samples.csv", row, self.columns)

    def work(self, setup, workers):
        return servers.Work(setup, workers, self.backend["address"], self.order_of_cores)

    def state(self, setup, workers, slower=1):
        """Returns the wanted state of the server, as the arguments of server.sh start. slower: how
        many times slower the server is than else, for counts.slowed()."""
        server, work = servers.of(setup), self.work(setup, workers)
        words = {"server": server.name, "workers": workers, **server.words(work),
                 "config": server.config(work) or "",
                 "preload": int(setup.get("preload", False)),
                 "library": setup.get("backend", "module"), "nic": self.nic,
                 "rfs": int(setup.get("rfs", False)), "rps": setup.get("rps", 0)}
        for kind, values in (("parameter", {**self.parameters, **setup.get("parameters", {})}),
                             ("sysctl", setup.get("sysctls", {})),
                             ("environment", setup.get("environment", {}))):
            words.update({f"{kind}:{name}": value for name, value in values.items()})
        return {**words, **counts.slowed(words, slower)}

    def start_server(self, setup, workers, keep, slower=1):
        """Returns (the wanted state of the server, why its state is another one, or None)."""
        wanted = self.state(setup, workers, slower)
        readback = keep("server-state.txt", self.server.run(
            "start", *(f"{name}={value}" for name, value in wanted.items()), "--",
            *servers.of(setup).program(self.work(setup, workers))))
        state = measure.server_state(readback)
        # There are as many queues as cores, so a run over several numbers of cores has settings
        # for each boot.
        boot = self.facts["boots"][-1]
        scope = boot if boots.by_workers(self.plan) or boot.get("counts") else self.facts
        settings = scope.setdefault("server_settings", state["settings"])
        return wanted, (measure.state_mismatch(state, wanted, settings)
                        or self.wrong_answer(servers.of(setup)))

    def wrong_answer(self, server):
        """Why the server's answer is not the expected one, or None."""
        if not server.answer:
            return None
        found = self.loadgen.run("answer", self.address, server.port, server.path, limit=10,
                                 failure=LoadError).decode(errors="replace")
        if server.answer in found:
            return None
        return f"{server.path} is answered without {server.answer!r}: {found[:60]!r}"

    def task(self, step, amount):
        """What a tool is to do in a repetition; amount: of requests, or seconds."""
        server = servers.of(self.setup(step["setup"]))
        return tools.Task(self.address, server.port, server.path, int(step["concurrency"]), amount,
                          int(step["workers"]))

    def generator_cores(self):
        """Returns the number of cores of each load generator."""
        return [int(facts.get("cores", 1)) for facts in contract.generators(self.facts)]

    def tasks(self, step, amount, processes=None):
        """Divides a task among the load generators; returns a list. processes: of each generator,
        during a search for enough load."""
        tool = tools.TOOLS[step["tool"]]
        parts = tools.split(self.task(step, amount), len(self.loadgen.hosts), tool.by_seconds)
        processes = (processes or self.plan.get("processes")
                     or search.chosen(self.facts, step))
        return [part._replace(processes=processes or tool.usual(cores, self.lab),
                              sources=tuple(own))
                for part, cores, own in zip(parts, self.generator_cores(),
                                            self.sources or itertools.repeat(()))]

    def load(self, step, amount, limit, processes=None):
        """Runs a load; returns, for each generator, the sections that load.sh and the tool give."""
        tool, tasks = tools.TOOLS[step["tool"]], self.tasks(step, amount, processes)
        printed = self.loadgen.together(
            [["load", *tool.files, *separated(tool.commands(task))] for task in tasks],
            limit=limit, failure=LoadError, what=tool.name)
        return [{**proc.sections(text), **tool.asked(task)}
                for text, task in zip(printed, tasks)]

    def raw(self, step):
        return self.run / "raw" / step["cell"] / step["repetition"]

    def measure(self, step):
        """Makes one repetition; returns its row, without its place and its final validity."""
        setup = self.setup(step["setup"])
        tool = tools.TOOLS[step["tool"]]
        watch = WATCHED.get(step["repetition"][0])
        raw = self.raw(step)
        raw.mkdir(parents=True, exist_ok=True)

        def keep(name, content):
            (raw / name).write_bytes(content)
            return content

        counted = step["repetition"][0] == COUNTED
        if counted:
            self.counter = self.counter or counts.counter(self.lab, self.server)
        wanted, mismatch = self.start_server(setup, int(step["workers"]), keep,
                                             self.counter.slower if counted else 1)
        self.warm_up(step, self.plan["warmup_requests"])
        if counted:
            row = self.count(step, keep, mismatch)
            return {**step, **self.backend_seen(wanted, row)}
        if watch:
            self.server.run(f"{watch}-start", limit=180)
        elif "halt_s" in setup:
            self.server.run("halt", setup["halt_s"])
        before = keep("server-before.txt", self.server.run("counters"))
        self.ports.tell(step)
        started = now_utc()
        loads = self.load(step, tool.amount(self.plan), tool.limit(self.plan))
        after = keep("server-after.txt", self.server.run("counters"))
        seen = None
        if watch:
            seen = proc.sections(self.server.run(f"{watch}-stop", limit=600))
            for name, content in profiles.watched_files(seen).items():
                keep(name, content)
        if watch == "perf":
            keep("perf.data", self.server.run("perf-data", limit=600))
        for name, content in tool.kept_of(loads).items():
            keep(name, content)

        metrics, reason = measure.sample(step, self.plan, loads, proc.sections(before),
                                         proc.sections(after), seen, self.lab,
                                         self.work(setup, int(step["workers"])).cores)
        self.ports.note(tool, step, metrics, loads, servers.of(setup).forwards)
        reason = mismatch or reason
        return {**step, **self.backend_seen(wanted, {
            **metrics, "started_utc": started.isoformat(timespec="milliseconds"),
            "valid": 0 if reason else 1, "invalid_reason": reason or ""})}

    def backend_seen(self, wanted, row):
        """Adds to the row which backend of the library is in force. It is read after the load,
        which has woken all workers. (A group's sockets stay as long as the server; counters are
        since its start.)"""
        if not wanted["preload"]:
            return row
        found = measure.server_state(self.server.run("in-force"))["backend"]
        reason = row["invalid_reason"] or measure.backend_mismatch(found, wanted) or ""
        return {**row, "backend": measure.backend(found, wanted["workers"]),
                "valid": 0 if reason else 1, "invalid_reason": reason}

    def warm_up(self, step, requests):
        tool = tools.TOOLS[step["tool"]]
        tasks = [task if not tool.by_seconds else task._replace(amount=max(
            requests // len(self.loadgen.hosts), task.concurrency)) for task in self.tasks(
                step, max(requests, int(step["concurrency"])))]
        self.loadgen.together([["warm-up", *separated(tool.warm_up(task))[1:]] for task in tasks],
                              limit=120 + self.plan["requests"] // 100, failure=LoadError)

    def count(self, step, keep, mismatch):
        """Makes a counting repetition; returns its columns. keep: stores a file of raw/."""
        counter = self.counter
        started = now_utc()
        try:
            counter.start()
            self.warm_up(step, counts.WARM)
            counter.zero()
            loads = self.load(step, self.plan.get("count_requests", counts.REQUESTS), 300)
            metrics, reason = tools.parsed(step["tool"], loads)
            if reason or metrics["failed"]:
                raise LoadError(reason or "requests failed while they were counted")
            counted, files = counter.stop(metrics["requests"])
        except (LoadError, counts.CountError, subprocess.TimeoutExpired) as error:
            counter.abandon()
            raise LoadError(str(error)) from error
        for name, content in files.items():
            keep(name, content)
        return {"requests": metrics["requests"], "failed": 0, **counted,
                "counts_source": counter.source,
                "started_utc": started.isoformat(timespec="milliseconds"),
                "valid": 0 if mismatch else 1, "invalid_reason": mismatch or ""}

    def repetition(self, step):
        """Returns the row of a repetition. It is invalid if a tool fails or prints what cannot be
        parsed."""
        started = now_utc().isoformat(timespec="milliseconds")
        try:
            return self.measure(step)
        except LoadError as error:
            reason = str(error)
        except tools.GARBLED as error:
            reason = f"what was recorded is not complete: {error!r}"
        return {**step, "started_utc": started, "valid": 0, "invalid_reason": reason}

    def enough(self, step, done):
        """Returns, where a timed round begins, whether the rounds before it were enough."""
        number = step["repetition"]
        if self.plan["rounds"] != "auto" or not number.isdigit() or number == done:
            return False
        end = stopping.end(self.run, self.plan, int(number) - 1)
        if end:
            self.facts["rounds_end"] = end
            contract.write_run(self.run, self.facts)
            print(f"no more rounds: {end['why']}", flush=True)
        return bool(end)

    def show_counts(self):
        """Shows the counts once they are complete, before the timed repetitions."""
        table = counted.setups(Study(self.run))
        if table:
            print(f"\ncounted; what is timed follows\n\n{table}", flush=True)

    def another_boot(self, step):
        """Whether this repetition is planned for a later boot than those of the run so far."""
        return boots.another(self.plan, step, self.facts["boots"])

    def all(self):
        """Measures until no repetition is left, or the next one needs another boot."""
        steps = contract.unfinished(self.run)
        search.search(self, steps)
        total = len(contract.read_plan(self.run))
        spent = []
        tried = {}
        for sample in contract.read_samples(self.run):
            key = sample["cell"], sample["repetition"]
            tried[key] = tried.get(key, 0) + 1
        number = None
        while steps:
            step = steps[0]
            if self.enough(step, number):
                steps = contract.unfinished(self.run)
                continue
            if self.another_boot(step):
                print(f"boot {len(self.facts['boots'])} is done: {len(steps)} repetitions are "
                      "left for another; boot the server, and the same command goes on",
                      flush=True)
                return
            if number and number[0] == COUNTED != step["repetition"][0]:
                self.show_counts()
            number = step["repetition"]
            key = step["cell"], step["repetition"]
            began = time.monotonic()
            row = self.repetition(step)
            self.order += 1
            tried[key] = tried.get(key, 0) + 1
            self.append({"experiment": self.plan["experiment"], "run": self.run.name,
                         "order": self.order, **row})
            raw = self.raw(step)
            if not row["valid"] and raw.exists():
                raw.rename(raw.with_name(f"{raw.name}-invalid-{self.order}"))
            if row["valid"] or tried[key] >= self.plan["attempts"]:
                steps.pop(0)
            spent.append(time.monotonic() - began)
            left = round(sum(spent) / len(spent) * len(steps))
            print(f"[{total - len(steps)}/{total}] {step['cell']} {step['repetition']}: "
                  f"{result(row)}, {spent[-1]:.1f} s, {left // 60} min {left % 60} s left",
                  flush=True)


def result(row):
    if not row["valid"]:
        return f"INVALID, {row['invalid_reason']}"
    if "counts_source" in row:
        return (f"{row['line_transfers_per_req']:.1f} line transfers"
                if "line_transfers_per_req" in row else f"{row['cycles_per_req']:.0f} cycles") + \
            f", {row['kernel_instructions_per_req']:.0f} kernel instructions per request"
    if "spin_pct" in row:
        return f"{row['spin_pct']} % spinning"
    if "lock_contended_per_kreq" in row:
        return f"{row['lock_contended_per_kreq']} contended locks per 1,000 requests"
    p99 = row.get("latency_p99_ms")
    return (f"{row['throughput_rps']:.0f} requests/s"
            + (f", p99 {p99:.0f} ms" if p99 is not None else ""))


def lock_run(run):
    """Locks the run until this process ends, since a second sweep would double every row."""
    folder = os.open(run, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{run.name} is being run by another sweep: wait for its end, or plan "
                       "a run of your own (plan.py --fresh, or -e fresh=true)") from None


def interrupted(*_):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(description="Run what plan.py planned, or the rest of it.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--hosts", type=json.loads, required=True,
                        help="the hosts, as JSON (see this file's beginning)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    # A shell that starts this program in the background makes it ignore SIGINT, so set a
    # handler.
    signal.signal(signal.SIGINT, interrupted)
    sweep, keep = None, True
    try:
        lock_run(args.run)
        sweep = Sweep(args.run.resolve(), args.hosts)
        sweep.all()
    except KeyboardInterrupt:
        keep = False
        left = len(contract.unfinished(args.run))
        print(f"stopped: {left} repetitions are left; the same command goes on with them",
              flush=True)
        sys.exit(130)
    finally:
        if sweep:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                sweep.stop()
            finally:
                holding.release(sweep.held, keep)


if __name__ == "__main__":
    try:
        main()
    except (RunError, OSError) as error:
        sys.exit(f"run: {error}")
