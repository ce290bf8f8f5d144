# SPDX-License-Identifier: GPL-2.0-only
"""Names and meaning of the result files' columns, and how the files are read and written.

A run is a folder results/EXPERIMENT/RUN-ID. plan.py makes it with plan.csv and run.json,
run.py appends samples.csv and fills raw/, summarise.py writes summary.csv and tables/,
plots/plot.py draws figures/. An absent measurement is an empty field, never 0.
"""
import csv
import io
import json
import os
from pathlib import Path

from tools import TOOLS

ROOT = Path(__file__).resolve().parent.parent

# samples.csv, before the factors.
IDENTITY = {
    "experiment": "name of the experiment's file",
    "run": "the run's folder: UTC time at which it was planned",
    "cell": "the levels of all factors that vary, joined by -",
    "repetition": "number of the round, from 1; c1, c2... for repetitions that count, p1, p2... "
                  "for those under perf, l1, l2... for those in which contended locks are recorded",
    "order": "place in the order that repetitions really ran in, from 1; retries count",
    "started_utc": "when the load started, ISO 8601",
}

VALIDITY = {
    "valid": "1, or 0 when conditions were wrong; only valid repetitions are summarised",
    "invalid_reason": "why, in words",
    "degraded": "what was not as it should be in a repetition that is valid, in words: its "
                "numbers are published, and marked",
    "backend": "of a setup under the library: what of it was in force after the load, module, "
               "kernel or none. kernel: a socket for each worker listens beside the program's own, "
               "no worker has the module's device open, and the module's counters have not "
               "moved; where backend: kernel was wanted, others make the repetition invalid",
}

LATENCIES = ", ".join(f"of {name} {tool.latency}" for name, tool in sorted(TOOLS.items()))
# Repetitions under perf, or with locks recorded, have no throughput, times or busy shares,
# since recording disturbs these.
METRICS = {
    "requests": "requests that were answered",
    "failed": "requests that the tool counts as failed, or that were answered by other than 2xx",
    "time_s": "duration of the load by the tool's clock, s; of several processes, or of several "
              "load generators at one time, until the last ends",
    "throughput_rps": "requests per second, by the tool; of several processes, requests / time_s",
    "latency_p50_ms": f"median, ms, to the end of the answer, {LATENCIES}; of several processes, "
                      "the median of what they say, but of several ab merged from their requests "
                      "(p50 and p90 within 1 % of these), of several httperf or wrk from their "
                      "histograms; empty with several load generators of other tools",
    "latency_p90_ms": "the same, 90th percentile, ms",
    "latency_p99_ms": "the same, 99th percentile, ms",
    "latency_p999_ms": "the same, 99.9th percentile, ms, of ab and httperf whole; not of "
                       "redis-benchmark",
    "latency_max_ms": "the same, longest, ms",
    "latency_mean_ms": "the same, mean, ms",
    "held_connections": "connections under way on average by Little's law: throughput times mean "
                        "latency; of ab, about the concurrency that it was asked for",
    "connect_p99_ms": "to open a connection, 99th percentile, ms; ab only, in whole ms",
    "server_cpu_us_per_req": "CPU time that the server's host spent per request, all cores, us; "
                             "in the lab virtual time",
    "server_busy_pct": "share of time not idle, mean of the cores that have a worker, %; "
                       "in the lab a share of virtual time",
    "server_busy_min_pct": "the same, least busy of these cores, %",
    "server_busy_max_pct": "the same, busiest of these cores, %",
    "loadgen_busy_pct": "CPU time of the tool as a share of what its threads can use, %; on hosts "
                        "other than the lab, which shares its cores, or the busiest core of the "
                        "generator, softirqs included, if that is more; of several the busiest",
    "spin_pct": "share of the server's non-idle profile samples in spin-lock slow paths, %; "
                "under perf only",
    "lock_contended_per_kreq": "contended lock acquisitions of the whole server per 1,000 "
                               "requests; with locks recorded only",
    "lock_wait_us_per_req": "time spent waiting for contended locks per request, us; with locks "
                            "recorded only",
    "context_switches_per_req": "context switches of the whole server per request",
    "syscalls_per_req": "system calls of the server program per request; with locks recorded only",
    "kernel_instructions_per_req": "instructions in the kernel per request, all of the server's "
                                   "cores, interrupts and idle loops included; counted only",
    "user_instructions_per_req": "the same outside the kernel",
    "line_transfers_per_req": "cache lines that moved from one core to another per request, as "
                              "one had modified them or had copies taken; without ticks, "
                              "load balancing and RCU; emulator only",
    "background_transfers_per_req": "the same for ticks, load balancing and RCU",
    "idle_transfers_per_s": "transfers per second, background included, in a window without load "
                            "right after the requests, with the same instruments; emulator only",
    "lines_moved_per_req": "different lines among the former per request",
    "cycles_per_req": "cycles of the server's processor per request; with a PMU only",
    "cache_misses_per_req": "its cache misses; with a PMU only",
    "hitm_loads_per_req": "loads per request that another core's cache answered with a line which "
                          "that core had changed; on processors of Intel's that count them only",
    "counts_source": "what counted: pmu, or the emulator with its quantum and, as it makes the "
                     "server slow, how many times longer connections wait for a late worker",
    "local_accept_pct": "connections whose SYN came to the core of the worker that accepted them, "
                        "% of all accepts, by the module's counters; those of cores without a "
                        "worker are not among them, but for the first of each; with Fastsocket "
                        "only",
    "listen_overflows": "connections the server dropped because an accept queue was full "
                        "(TcpExt ListenOverflows)",
    "time_wait_overflows_per_req": "connections per request that ended without TIME_WAIT, as the "
                                   "server had its limit of them (TcpExt TCPTimeWaitOverflow)",
    "syn_retransmits": "SYNs that the load generator, or a proxy, sent again (TcpExt "
                       "TCPSynRetrans)",
    "retransmits": "segments that either host sent again (Tcp RetransSegs), SYNs included",
}

# search.csv: a row for each load that was tried, before the repetitions, to find one that is enough
# (search.py). Columns of metrics mean there what they mean in samples.csv. What was chosen is in
# run.json under loads.
SEARCH = {
    "step": "place in the order that loads were tried in, from 1",
    "tool": "that applied the load",
    "workers": "of the server",
    "setup": "of the server",
    "processes": "of the tool on each load generator; of wrk, threads",
    "concurrency": "connections at a time, of all load generators together",
    **{name: METRICS[name] for name in ("requests", "failed", "time_s", "throughput_rps",
                                        "loadgen_busy_pct")},
    "server_busy_pct": "share of time not idle, mean of the cores that have a worker, %; in the "
                       "lab that of the machine, if it is more",
    "fault": "why the load does not count, in words",
}

# raw/CELL/cN/lines.csv of a repetition in which the emulator counted: a row for each line. Older
# runs have the first and the last two of these columns.
LINES = {
    "line": "64-byte line: its address, or the symbol of a variable and the offset in it; empty "
            "where `what` is known and it moves less than 0.05 times per request",
    "kind": "what it belongs to: variable of the kernel's image, per-CPU variable, array (a hash "
            "table), slab, page description, stack; page, vmalloc, image, per-CPU memory and "
            "unknown where the guest could say no more",
    "what": "variable, array, slab cache or stack, and the offset in the variable or object at "
            "which the line begins (0 where the variable or object begins within the line); of "
            "merged caches up to three names; empty where it is not known, as the memory has been "
            "freed or is no object",
    "member": "structure and member that are accessed where the line moves most often; of a union "
              "the first that is there; empty where the structure is not known",
    "cpu": "whose per-CPU variable it is",
    "moved_by": "function that moves the line most often",
    "transfers_per_req": "times that the line moved from one core to another per request",
}

# run.json: what is under each of its keys. Those of "server" and "loadgen" are FACTS.
RUN = {
    "plan": "the experiment, resolved: its factors with all levels, setups, rounds, requests "
            "(plan.py explains the keys)",
    "seed": "of the shuffle of plan.csv",
    "settings": "what the sweep was given beside experiment and profile, NAME=VALUE,...",
    "command": "what makes such a run, in playbooks/",
    "inventory": "name of the inventory",
    "git_commit": "of the suite, when the run began",
    "git_dirty": "whether files differed from that commit",
    "git_difference": "file of the run that says by what",
    "server": "what the server says of itself; a run goes on only on one that says the same",
    "counting": "where the lab has KVM: server, the same of the emulated one that was counted, and "
                "its changes",
    "loadgen": "what the load generator says of itself, the first of several",
    "loadgens": "what each of several says",
    "sources": "of each load generator the addresses that it connects from, if they were given",
    "server_settings": "settings of the server that are the same in all repetitions",
    "boots": "a list of the server's boots: boot_id, first_order (of its first repetition), in the "
             "lab the emulator's version and options, counts: true if only what is counted was "
             "measured in it (the lab has KVM), false if it ran under KVM, and where each number "
             "of cores, or each kernel, is a boot what differs by it",
    "loads": "a list of searches for a load that is enough: tool, workers, processes on each "
             "load generator that were chosen (null: none), and limits: by setup the largest load "
             "that counted (processes, concurrency, rate in requests per second, server and "
             "generator as busy as they were, %, the fault of a larger one) and limit, what it "
             "ended at: server, generator, ports, failed (a larger load did), nothing (none "
             "worked), unknown",
    "rounds_end": "of rounds: auto, the last round and why there were no more",
    "changes": "a list of what was another when the run was taken up again: what, was, is, and "
               "first_order, from which repetition on",
}

FACTS = {
    "os": "Debian's release",
    "kernel": "release",
    "command_line": "of the kernel; server only",
    "cpu_model": "as in /proc/cpuinfo",
    "microcode": "its revision",
    "mitigations": "of processor faults that concern it, as in /sys",
    "governor": "of its frequency; absent where nothing governs it",
    "cores": "CPUs",
    "siblings": "CPUs of each core, a core after the other",
    "numa": "CPUs of each node",
    "memory_mb": "of the host; server: a run goes on if it is within one percent",
    "nic": "name, driver and firmware of the network interface; load generator: of the one to the "
           "server",
    "nic_node": "the NUMA node that it is on",
    "core_order": "CPUs in the order in which its queues and workers take them; server only, "
                  "absent where that is 0, 1, 2 and so on",
    "clock_source": "server only",
    "module_srcversion": "of the module that is loaded: what its sources are",
    "module_sha256": "of the module's file, which also has a signature",
    "library_sha256": "of libfsocket.so",
    "demo_sha256": "of the demo server",
    "perf": "its version",
    "profile_event": "what takes the samples of profiles: cycles, of the processor, or cpu-clock, "
                     "a timer, where it has no counters that perf could read",
    "packages": "Debian's, with versions: of the server kernels, compiler, C library and servers; "
                "of load generators the tools",
    "accelerator": "what runs the lab's server: tcg, which emulates, or kvm",
}


def sample_columns(factors):
    return [*IDENTITY, *factors, *VALIDITY, *METRICS]


def generators(facts):
    """Returns what run.json says of each load generator: a list of FACTS by name."""
    return facts.get("loadgens", [facts.get("loadgen", {})])


def server_of(facts):
    """What the server says of itself; as long as only that is known, the one that was counted."""
    return facts.get("server") or facts.get("counting", {}).get("server", {})


def read_run(run):
    """OSError where it is no whole run.json, as where there is none."""
    try:
        return json.loads((run / "run.json").read_text())
    except ValueError as error:
        raise OSError(f"{run}/run.json is broken, {error}: delete the run, or restore the file"
                      ) from error


def write_file(path, text):
    """Writes all of it or nothing, also when the process is killed or the disk is full."""
    new = path.with_name(path.name + ".new")
    with open(new, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_run(run, facts):
    write_file(run / "run.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def read_csv(path):
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def csv_line(row, columns):
    line = io.StringIO()
    csv.DictWriter(line, columns, lineterminator="\n").writerow(row)
    return line.getvalue()


def append_row(path, row, columns):
    """Writes it to the disk at once."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(("" if file.tell() else ",".join(columns) + "\n") + csv_line(row, columns))
        file.flush()
        os.fsync(file.fileno())


def read_plan(run):
    return read_csv(run / "plan.csv")


def known(run):
    """Raises FileNotFoundError with a sentence if the folder is no run."""
    if not (run / "run.json").is_file():
        raise FileNotFoundError(f"{run} is no run's folder: ls -d results/*/* lists the runs, and "
                                "make sweep makes one")


def read_samples(run):
    """Returns whole rows only: a row that a kill or a crash has cut short does not count."""
    path = run / "samples.csv"
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].decode(errors="replace")
    rows = list(csv.DictReader(io.StringIO(whole)))
    return [row for row in rows if None not in row and None not in row.values()
            and row.get("valid") in ("0", "1")]


def last_round(facts):
    """The last wanted round of timed repetitions; None if all are wanted (see stopping.py)."""
    return facts.get("rounds_end", {}).get("round")


def unfinished(run):
    """The planned repetitions that have neither a valid sample nor all their attempts."""
    facts = read_run(run)
    attempts, last = facts["plan"]["attempts"], last_round(facts)
    tried = {}
    for sample in read_samples(run):
        key = sample["cell"], sample["repetition"]
        tried[key] = attempts if sample["valid"] == "1" else tried.get(key, 0) + 1
    return [step for step in read_plan(run)
            if tried.get((step["cell"], step["repetition"]), 0) < attempts
            and not (last and step["repetition"].isdigit() and int(step["repetition"]) > last)]
