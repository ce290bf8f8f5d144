#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Turns an experiment file into a run: a folder with plan.csv and run.json.

Every round holds every cell once, in shuffled order; each second timed round has the order of
the round before it, reversed (A-B-B-A). A run of the same plan that is not finished is taken up
again unless --fresh. The last line on stdout is the folder.

An experiment file, experiments/NAME.yml, says:

question      what it is to find out
reference     text: where the figures come from that ours are compared with;
              time_s: seconds by setup, printed in the with/without table (optional)
server_cores  cores that the server has to have; the lab is started with as many. workers: as
              many as a repetition has workers, so that each number of them is a boot of its own
              (then workers may be called cores under factors, and this key is left out)
saturates     true: a repetition that leaves the server idle is invalid
setups        by name, each:
                server      what answers, or forwards to a demo server on the load generator's
                            host: see servers/ (default: demo)
                command     of server: command, which is one of your own: see docs/extending.md
                mode        how it listens: shared (default) or reuseport; the demo also
                            exclusive or cbpf (its option -m)
                preload     true: under libfsocket.so
                backend     of the library: module (default), or kernel, which needs no module
                            (docs/backends.md); then preload has to be true
                environment variables of the server, by name: value of one word
                parameters  of the module, by name; all others have the module's defaults. Or
                            everything: those of all ideas of 2014 (ideas.py)
                sysctls     of the server, by name: value, of one word or several
                rfs         true: under the kernel's own Receive Flow Steering
                rps         workers: RPS moves the packets of each receive queue whose core has no
                            worker to the core of one, so that no core without a worker handles
                            connections; a queue of a worker's core keeps its packets there
                halt_s      a worker process is stopped (SIGSTOP) before the load begins, and goes
                            on after so many seconds, 1 to 60; timed repetitions only
                baseline    setup that it is compared with, if not the experiment's
                against     further ones, a list; in tables/setups.md only
                text        what it is, for tables and figures (default: its name)
                idea        of 2014, and successor, what Linux has of it: this setup has it more
                            than its baseline; or idea alone: this setup lacks it. Both make
                            a row of the table of ideas.
ideas         groups of setups that ideas.py makes, a list: alone, left-out (needs a setup
              "all"), adding-up; a group's name stands for its setups under factors: setup
factors       what is varied: setup, tool (see tools/), concurrency (connections at a time) and
              workers (server processes), each with a list of levels. Of tools that are open
              loops (httperf) rate, connections opened per second, instead of concurrency; result
              files have it in the column concurrency. And, if wanted,
              parameter:NAME (of the module) and sysctl:NAME (of the server), which are set on
              top of each setup that they concern: parameters are nothing to a setup without the
              module. That makes setups SETUP+NAME=LEVEL, each compared with the one at the
              level that baseline names, or the first; that one with what the setup always is.
              And kernel, as "6.1", in the lab or on a server that somebody boots: each is a boot
              of its own, in which setups are compared with each other
skip          combinations to leave out: lists of factor: level (optional)
baseline      the levels that mark the cell others are compared with
perf          cells that are also run under perf: factor: list of levels (default: none)
locks         cells of which contended locks and system calls are recorded too, in
              repetitions of their own: factor: list of levels (default: none)
counts        cells of which instructions and cache-line transfers are counted too, in repetitions
              of their own, which come first: factor: list of levels (default: none)
profiles      quick and full, each: rounds (0: none), perf_repetitions, lock_repetitions and
              count_repetitions (of each such cell; default 0),
              requests, count_requests (while counting; default 1500), seconds (of tools that are
              told how long, such as wrk),
              warmup_requests, attempts (per repetition, until valid), boots (of the server, over
              which the rounds are spread; default 1). rounds: auto goes on until the interval of
              the ratio that decides is no wider than target_pct (default 5) to either side, or
              rounds_max (default 60) are done: see stopping.py. null: 0 leaves the null cell out.
              processes: of ab and httperf, or threads of wrk, on each load generator; default:
              what a search finds, else half of the generator's cores (in the lab 1 of ab and
              httperf).
              search: 1 looks for a load that is enough before the repetitions, 0 does not
              (search.py); default: 1 where saturates is true, the hosts are not the lab, and
              processes is not given
decides       levels of the cell whose ratio to its baseline that is (default: the first cell
              that is not a baseline)
without, with setups in these roles: the first table has a column for each, and with is
              compared with all that run without the module (tables/against.md)
pairs         further setups without and with Fastsocket, for the first table: lists of two

Any factor is varied without writing a file: --set NAME=LEVEL,... (sweep_set of the playbook), as
parameter:enable_socket_pool_size=0,16,64,256, workers=1,4,8,16,24 (server_cores follows, upwards:
a server with fewer needs server_cores=4, too), cores=1,2,4 (which is workers=1,2,4 and
server_cores=workers) or tool=wrk.

Every plan has a null cell besides: the baseline once more, under the name "again", at the
first level of the other factors. What differs between the two does so by chance.
"""
import argparse
import datetime
import itertools
import json
import random
import re
import shutil
import sys
import time
from pathlib import Path

import yaml

import boots
import contract
import counts
import factors as factors_of
import ideas
import servers
import tools
from factors import PlanError, known, module_parameters

KEYS = {"question", "reference", "server_cores", "saturates", "setups", "ideas", "factors", "skip",
        "baseline", "decides", "without", "with", "pairs", "perf", "locks", "counts",
        "profiles"}
FACTORS = factors_of.COLUMNS
SETUP_KEYS = {"server", "command", "mode", "preload", "backend", "environment", "parameters",
              "sysctls", "rfs", "rps", "halt_s", "kernel", "baseline", "against", "text", "idea",
              "successor"}
BACKENDS = {"module", "kernel"}
# Variables that server.sh sets.
OURS = {"LD_PRELOAD", "FSOCKET_BACKEND", "FSOCKET_REQUIRED"}
PROFILE_KEYS = {"rounds", "perf_repetitions", "lock_repetitions", "count_repetitions", "requests",
                "count_requests", "seconds", "warmup_requests", "attempts", "boots", "target_pct",
                "rounds_max", "null", "processes", "search"}
# A key of the experiment that --set can change, for hosts that have fewer cores.
CORES = "server_cores"
# The name of the null cell's setup.
AGAIN = "again"


def load(name):
    folder = contract.ROOT / "experiments"
    known("experiment", [name], {file.stem for file in folder.glob("*.yml")})
    experiment = yaml.safe_load((folder / f"{name}.yml").read_text(encoding="utf-8"))
    known(f"{name}.yml: key", experiment, KEYS)
    groups = experiment.pop("ideas", [])
    known(f"{name}.yml: ideas", groups, ideas.GROUPS)
    ideas.settle(experiment, groups)
    factors_of.cores_to_workers(experiment)
    return experiment


def override(experiment, profile, settings):
    """Levels of factors, and values of the profile's keys, as --set gives them: NAME=VALUE,..."""
    factors_of.check_cores_alone({setting.partition("=")[0] for setting in settings})
    for setting in settings:
        name, _, text = setting.partition("=")
        if not factors_of.is_setting(name):
            known("factor or profile key", [name], FACTORS | PROFILE_KEYS
                  | {factors_of.RATE, factors_of.CORES, factors_of.KERNEL, CORES}
                  | {f"{kind}:NAME" for kind in factors_of.KINDS})
        values = [int(value) if value.isdigit() else value for value in text.split(",")]
        if name in FACTORS | {factors_of.RATE} or factors_of.is_setting(name):
            if name == "tool":
                known(name, values, tools.TOOLS)
            if name == "setup":
                values = ideas.spread(values)
                known(name, values, experiment["setups"])
            experiment["factors"][name] = values
            if name == "workers" and experiment["server_cores"] != boots.AS_WORKERS:
                # Each worker needs a core, so more workers need a server with more cores.
                experiment["server_cores"] = max(experiment["server_cores"], *(
                    value for value in values if isinstance(value, int)), 0)
        elif name == factors_of.CORES:
            experiment["factors"]["workers"] = values
            experiment[CORES] = boots.AS_WORKERS
        elif name == CORES:
            if len(values) != 1 or not (values == [boots.AS_WORKERS] or isinstance(values[0], int)
                                        and values[0]):
                raise PlanError(f"{setting}: give one number from 1, or {boots.AS_WORKERS}")
            experiment[CORES] = values[0]
        elif setting == "processes=0":
            raise PlanError("processes=0: give a number from 1, or leave it out")
        elif len(values) == 1 and (isinstance(values[0], int) or setting == "rounds=auto"):
            profile[name] = values[0]
        else:
            raise PlanError(f"{name}={text}: give one whole number")


def check_library(name, setup):
    """Raises PlanError where a setup's backend of the library, or environment, is wrong."""
    known(f"setup {name}: backend", [setup.get("backend", "module")], BACKENDS)
    if setup.get("backend") == "kernel" and (
            not setup.get("preload") or not servers.of(setup).shares
            or setup.get("mode", "shared") not in ("shared", "exclusive")):
        raise PlanError(f"setup {name}: backend kernel is the library's, for a listener that "
                        "several workers have: give preload true, mode shared or exclusive, and "
                        "no server of many ports")
    for variable, value in setup.get("environment", {}).items():
        if (not re.fullmatch(r"[A-Za-z_]\w*", variable) or len(str(value).split()) != 1
                or variable in OURS):
            raise PlanError(f"setup {name}: environment {variable}: {value}: give a name, other "
                            "than those that preload and backend set, and a value of one word")


def check_setup(name, setups):
    setup = setups[name]
    known(f"setup {name}: key", setup, SETUP_KEYS)
    known(f"setup {name}: server", [setup.get("server", servers.DEFAULT)], servers.SERVERS)
    fault = servers.SERVERS[setup.get("server", servers.DEFAULT)].fault(setup)
    if fault:
        raise PlanError(f"setup {name}: {fault}")
    server = servers.of(setup)
    known(f"setup {name}: mode", [setup.get("mode", "shared")], server.modes)
    known(f"setup {name}: baseline", [setup.get("baseline", name)], setups)
    known(f"setup {name}: against", setup.get("against", []), setups)
    if not isinstance(setup.get("parameters", {}), dict):
        raise PlanError(f"setup {name}: parameters {setup['parameters']}: give NAME: VALUE of "
                        "each, or everything")
    known("parameter", setup.get("parameters", {}), module_parameters())
    for key in ("preload", "rfs"):
        if not isinstance(setup.get(key, False), bool):
            raise PlanError(f"setup {name}: {key} {setup[key]}: give true or false")
    if "rps" in setup:
        known(f"setup {name}: rps", [setup["rps"]], {"workers"})
    if "halt_s" in setup and (setup["halt_s"] not in range(1, 61)
                              or not server.stoppable):
        raise PlanError(f"setup {name}: halt_s {setup['halt_s']}: give 1 to 60 seconds, and a "
                        f"server whose workers are processes: {', '.join(servers.stoppable())}")
    for sysctl, value in setup.get("sysctls", {}).items():
        if not (re.fullmatch(r"[\w.-]+", sysctl)
                and re.fullmatch(r"[\w.,+-]+( [\w.,+-]+)*", str(value))):
            raise PlanError(f"setup {name}: sysctl {sysctl}: {value}: give a name with dots, "
                            "and words of letters, digits and .,+-")
    check_library(name, setup)
    if "successor" in setup and "idea" not in setup:
        raise PlanError(f"setup {name}: successor without idea: say of which")


def check_roles(experiment):
    """Which setups are without and with Fastsocket."""
    if ("without" in experiment) != ("with" in experiment):
        raise PlanError("without, with: one is given alone: give both, or neither")
    for key in ("without", "with"):
        known(f"{key}: setup", [experiment[key]] if key in experiment else [],
              experiment["setups"])
    for pair in experiment.get("pairs", []):
        known("pairs: setup", pair, experiment["setups"])
        if len(pair) != 2:
            raise PlanError(f"pairs: {', '.join(pair)}: give lists of two, without and with")
    if "time_s" in experiment["reference"]:
        pairs = roles(experiment)
        for name in pairs[0] if pairs else ["with"]:
            known("reference: time_s of", [name], experiment["reference"]["time_s"])


def roles(experiment):
    """[[setup without, setup with]]"""
    own = [[experiment["without"], experiment["with"]]] if "with" in experiment else []
    return own + experiment.get("pairs", [])


def check(experiment):
    """Raises PlanError at what is wrong with an experiment; its factors are columns by now."""
    known("factor", experiment["factors"], FACTORS)
    for factor in sorted(FACTORS - set(experiment["factors"])):
        raise PlanError(f"factor {factor} has no levels: give a list under factors")
    factors = experiment["factors"]
    known("setup", factors["setup"], experiment["setups"])
    known("tool", factors["tool"], tools.TOOLS)
    for factor in FACTORS:
        for level in factors[factor]:
            if factors[factor].count(level) > 1:
                raise PlanError(f"{factor}: level {level} is given twice: give each level once")
    for name in factors["setup"]:
        check_setup(name, experiment["setups"])
        server = servers.of(experiment["setups"][name])
        for tool in factors["tool"]:
            if tools.TOOLS[tool].speaks != server.speaks:
                raise PlanError(f"setup {name}: {tool} does not speak to this server: "
                                f"give {' or '.join(tools.speaking(server.speaks))}")
        if server.told == "itself" and factors["workers"] != [1]:
            raise PlanError(f"setup {name}: the server is its only worker: give workers 1, or say "
                            "that children or threads are its workers")
    known("baseline setup", [experiment["baseline"]["setup"]], experiment["setups"])
    check_roles(experiment)
    known("decides: factor", experiment.get("decides", {}), FACTORS)
    for factor in ("concurrency", "workers"):
        for level in factors[factor]:
            if not isinstance(level, int) or level < 1:
                raise PlanError(f"{factor} {level}: give whole numbers from 1")
    cores = experiment["server_cores"]
    if cores != boots.AS_WORKERS and max(factors["workers"]) > cores:
        raise PlanError(f"workers {max(factors['workers'])}: more than the server's cores, "
                        f"{cores}: give fewer, or raise server_cores")


def check_search(profile):
    known("search", [profile.get("search", 0)], {0, 1})
    if profile.get("search") and "processes" in profile:
        raise PlanError("search, processes: a search finds the number of processes: leave one out")


def matches(cell, levels):
    return all(cell[factor] in (level if isinstance(level, list) else [level])
               for factor, level in levels.items())


def cells(plan):
    factors = plan["factors"]
    product = [dict(zip(factors, levels)) for levels in itertools.product(*factors.values())]
    varied = [factor for factor in factors if len(factors[factor]) > 1] or ["setup"]
    chosen = [cell for cell in product
              if not any(matches(cell, levels) for levels in plan.get("skip", []))
              and (cell["setup"] != AGAIN or all(
                  cell[factor] == factors[factor][0] for factor in factors if factor != "setup"))]
    return [{"cell": "-".join(str(cell[factor]) for factor in varied), **cell}
            for cell in chosen]


def add_null(plan):
    """The null cell's setup, unless a setup of the experiment is the baseline already."""
    setups, levels = plan["setups"], plan["factors"]["setup"]
    base = plan["baseline"]["setup"]

    def facts(name):
        return {key: value for key, value in setups[name].items() if key != "text"}

    if (not plan.pop("null", 1) or base not in levels
            or any(facts(name) == facts(base) for name in levels if name != base)):
        return
    text = setups[base].get("text", base)
    setups[AGAIN] = {**setups[base], "text": f"{text}, once more"}
    levels.append(AGAIN)


def resolve(name, profile, settings):
    """The experiment as one profile of it will be run."""
    experiment = load(name)
    profiles = experiment.pop("profiles")
    known("profile", [profile], profiles)
    override(experiment, profiles[profile], settings)
    known(f"profile {profile}: key", profiles[profile], PROFILE_KEYS)
    check_search(profiles[profile])
    factors_of.check_names(experiment["factors"])
    factors_of.rate_to_column(experiment)
    factors_of.spread(experiment)
    check(experiment)
    plan = {"experiment": name, "profile": profile, **experiment, **profiles[profile]}
    if boots.by_workers(plan) and (plan["rounds"] == "auto" or plan.get("boots", 1) > 1):
        raise PlanError("cores, or server_cores: workers, has a boot for each number of cores: "
                        "give rounds as a number, and boots=1")
    if boots.kernels(plan) and (boots.by_workers(plan) or plan["rounds"] == "auto"
                                or plan.get("boots", 1) > 1):
        raise PlanError("kernel: each is a boot: give rounds and server_cores as numbers, boots=1, "
                        "and not the factor cores")
    add_null(plan)
    if not cells(plan):
        raise PlanError("the factors leave no cell: see skip in the experiment file")
    if not steps(plan, 0):
        raise PlanError("the factors leave nothing to measure: none of the cells is one that is "
                        "counted, and rounds is 0: give other levels, or rounds=3")
    return plan


def steps(plan, seed):
    shuffle = random.Random(seed)
    every = cells(plan)
    rounds = []
    # Counts come first, since a busy machine does not change them.
    counted = plan.get("count_repetitions", 0) if plan.get("counts") else 0
    for number in range(1, counted + 1):
        # Tools whose loads are given in seconds cannot make a given number of requests.
        rounds.append([{**cell, "repetition": f"c{number}"} for cell in every
                       if matches(cell, plan["counts"]) and cell["setup"] != AGAIN
                       and not tools.TOOLS[cell["tool"]].by_seconds])
    # Repetitions under perf have rounds of their own at the end: timed rounds stay alike.
    for number in range(1, boots.most_rounds(plan) + 1):
        rounds.append([{**cell, "repetition": number} for cell in every])
    for mark, wanted, repetitions in (
            ("p", plan.get("perf"), plan.get("perf_repetitions", 0)),
            ("l", plan.get("locks"), plan.get("lock_repetitions", 0))):
        for number in range(1, repetitions + 1 if wanted else 1):
            rounds.append([{**cell, "repetition": f"{mark}{number}"} for cell in every
                           if matches(cell, wanted) and cell["setup"] != AGAIN])
    before = []
    for one in rounds:
        shuffle.shuffle(one)
        if one and one[0]["repetition"] in range(2, boots.most_rounds(plan) + 1, 2):
            # A machine that gets steadily slower favours in this round whom it hurt in the last.
            one.sort(key=lambda step: -before.index(step["cell"]))
        before = [step["cell"] for step in one]
    # Each number of cores and each kernel needs a boot, and is booted once.
    kernels = boots.kernels(plan)
    return sorted(itertools.chain(*rounds), key=lambda step: (
        step["workers"] if boots.by_workers(plan) else 0,
        kernels.index(boots.kernel_of(plan, step)) if kernels else 0))


def seconds(plan, left):
    """Estimates how long repetitions take in the lab, which answers 2,500 requests a second."""
    total = 0
    for step in left:
        mark = str(step["repetition"])[0]
        if mark == "c":
            # A counting lab answers 400 a second, is then left idle, and takes 3.5 s to read.
            wanted = counts.WARM + plan.get("count_requests", counts.REQUESTS)
            total += 2.5 + wanted / 400 + counts.IDLE_S + 3.5
            continue
        # A start of the server and the warm-up; perf and the recording of locks take longer.
        total += 2.5 if mark.isdigit() else 8
        total += tools.TOOLS[step["tool"]].lasts(plan)
    return total


def announcement(plan, left, resumed, apart=False):
    """Says, for the user who has just started it, what a sweep is going to do."""
    cores = [boot.cores for boot in boots.planned(plan, left, apart)]
    many = (f"{len(left)} repetitions {'are left of the run ' + resumed.name if resumed else ''}"
            f"{'at most' if plan['rounds'] == 'auto' else ''}").strip()
    times = "once" if len(cores) == 1 else f"{len(cores)} times"
    return (f"{plan['experiment']}: {plan['question'].strip()}\n"
            f"{len(plan['setups'])} setups, {len(cells(plan))} cells, {many}. The server is "
            f"booted {times}, with {', '.join(map(str, sorted(set(cores))))} cores.\n"
            f"In the lab about {seconds(plan, left) / 60 + 2 * len(cores):.0f} minutes, and 5 more "
            "the first time for the lab's image. Ctrl-C stops it, and the same command goes on.")


def resumable(folder, plan):
    """The newest run of this plan, when it is not finished."""
    for run in sorted(folder.glob("*T*Z"), reverse=True):
        try:
            facts = contract.read_run(run)
        except OSError as error:
            print(f"{run.name} is left alone: {error}")
            continue
        if facts.get("plan") == json.loads(json.dumps(plan)):
            return run if contract.unfinished(run) else None
    return None


def new_run(folder):
    """A folder that no other run has; they are named by the second."""
    while True:
        now = datetime.datetime.now(datetime.timezone.utc)
        run = folder / now.strftime("%Y%m%dT%H%M%SZ")
        if not run.exists():
            return run
        time.sleep(0.1)


def create(folder, plan, seed, settings):
    run = new_run(folder)
    # Hidden until it is complete: a run is never half planned.
    new = folder / f".{run.name}.new"
    new.mkdir(parents=True)
    columns = ["cell", "repetition", *plan["factors"]]
    lines = [",".join(columns) + "\n"]
    lines += [contract.csv_line(step, columns) for step in steps(plan, seed)]
    try:
        contract.write_file(new / "plan.csv", "".join(lines))
        contract.write_run(new, {"plan": plan, "seed": seed, "settings": settings})
        new.rename(run)
    except OSError:
        shutil.rmtree(new)
        raise
    return run


def main():
    parser = argparse.ArgumentParser(
        description="Plan a run of an experiment, or find the unfinished one.",
        epilog="The last line on stdout is the run's folder.")
    parser.add_argument("experiment", help="a file of experiments/, without .yml")
    parser.add_argument("--profile", default="quick", help="quick (default) or full")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE,...",
                        help="other levels of a factor, or another value of a key of the "
                             "profile, than the experiment says; may be repeated")
    parser.add_argument("--seed", type=int, help="of the shuffle; default: a random one")
    parser.add_argument("--fresh", action="store_true", help="do not resume an unfinished run")
    parser.add_argument("--results", type=Path, default=contract.ROOT / "results",
                        help="folder for the runs (default: results)")
    parser.add_argument("--check", action="store_true",
                        help="only check, and print what the run will do; in the last line, how "
                             "many cores the server needs in each of its boots to come, behind "
                             "a colon which kernel, where that is a factor, and behind another "
                             "tcg, where the lab has to emulate it")
    parser.add_argument("--apart", action="store_true",
                        help="with --check: the lab has KVM, so that what is counted needs a boot "
                             "of its own, under the emulator")
    args = parser.parse_args()

    plan = resolve(args.experiment, args.profile, args.set)
    folder = args.results / plan["experiment"]
    run = None if args.fresh else resumable(folder, plan)
    if args.check:
        left = contract.unfinished(run) if run else steps(plan, 0)
        print(announcement(plan, left, run, args.apart))
        print(*(boot.word() for boot in boots.planned(plan, left, args.apart)))
        return
    if run:
        print(f"resuming {run.name}: {len(contract.unfinished(run))} of "
              f"{len(contract.read_plan(run))} repetitions are left")
    else:
        seed = args.seed if args.seed is not None else random.randrange(1 << 32)
        run = create(folder, plan, seed, args.set)
        print(f"planned {run.name}: {len(cells(plan))} cells, "
              f"{len(contract.read_plan(run))} repetitions")
    print(run)


if __name__ == "__main__":
    try:
        main()
    except (PlanError, OSError) as error:
        sys.exit(f"plan: {error}")
