# SPDX-License-Identifier: GPL-2.0-only
"""A repetition: the server's state, and its row of samples.csv.

Everything here takes text and returns numbers; nothing touches a host. Columns are
described in contract.py; the parsers are in proc.py, profiles.py and tools/, and what
makes a repetition invalid or degraded in verdicts.py.
"""
import re
from collections import Counter

import profiles
import proc
import sources
import tools
import verdicts

TICK_US = 10000
# Columns that are empty in repetitions under perf or with locks recorded, since recording disturbs
# them.
DISTURBED = re.compile(r"time_s|throughput_rps|loadgen_busy_pct|context_switches_per_req|"
                       r"held_connections|(?:latency|connect|server_(?:busy|cpu))_.*")


def server_state(readback):
    """The lines that server.sh start prints, as nested names."""
    state = {"workers": {}, "parameters": {}, "chosen": {}, "settings": {}, "backend": {},
             "receives": {}}
    for line in readback.decode().splitlines():
        words = line.split()
        match words:
            case ["worker", process, cores]:
                state["workers"][process] = cores
            case ["parameter", name, value]:
                state["parameters"][name] = value
            case ["chosen", name, *values]:
                state["chosen"][name] = " ".join(values)
            case ["backend", name, value]:
                state["backend"][name] = int(value)
            case ["receives", queue, core, cpus]:
                state["receives"][queue] = core, int(cpus.replace(",", ""), 16)
            case ["preloaded", number]:
                state["preloaded"] = int(number)
            case _:
                state["settings"][" ".join(words[:-1])] = words[-1]
    return state


def backend(found, workers):
    """The backend of the library that is in force: module, kernel or none.

    found: by name, how many sockets listen at the server's ports, how many workers have the
    module's device open, and what the module has done since the server was started. One
    worker has no group: it waits for the program's own listener.
    """
    if found.get("devices") or found.get("module"):
        return "module"
    return "kernel" if found.get("sockets", 0) == (workers + 1 if workers > 1 else 1) else "none"


def backend_mismatch(found, wanted):
    """The reason for which the kernel backend is wanted and not in force, or None."""
    workers = wanted["workers"]
    if (not wanted["preload"] or wanted["library"] != "kernel"
            or backend(found, workers) == "kernel"):
        return None
    return (f"the kernel backend is not in force: {found.get('sockets', 0)} sockets listen, and "
            f"not one for each of {workers} workers besides the program's own; "
            f"{found.get('devices', 0)} workers use the module's device, and its counters moved by "
            f"{found.get('module', 0)}")


def rps_mismatch(state, wanted):
    """The first receive queue whose packets RPS does not leave or move as wanted, or None."""
    own = set(state["workers"].values())
    if wanted.get("rps") != "workers":
        # As tuned, all queues have the same setting.
        if len({cpus for _, cpus in state["receives"].values()}) > 1:
            return "RPS moves the packets of some receive queues, and no setup asks for that"
        return None
    if not state["receives"]:
        return "rps is workers, and the server has no receive queues that RPS knows"
    masks = {1 << int(core) for core in own}
    for queue, (core, cpus) in state["receives"].items():
        if core in own and cpus:
            return f"RPS moves the packets of {queue} away from core {core}, which has a worker"
        if core not in own and cpus not in masks:
            return f"RPS does not move the packets of {queue}, on core {core}, to one worker's core"
    return None


def state_mismatch(state, wanted, settings):
    """The first part of the server's state that is not as run.py wanted it, or None."""
    workers = wanted["workers"]
    cores = list(state["workers"].values())
    own = wanted["cores"].split(",") if "cores" in wanted else [str(n) for n in range(workers)]
    if sorted(cores, key=lambda core: (len(core), core)) != own:
        return (f"workers run on cores {' '.join(cores)}, not one on each of "
                f"{wanted.get('cores', f'0-{workers - 1}')}")
    if state["preloaded"] != (workers if wanted["preload"] else 0):
        return f"{state['preloaded']} of {workers} workers have libfsocket.so loaded"
    for word, value in wanted.items():
        kind, _, name = word.rpartition(":")
        if kind == "parameter":
            found = state["parameters"].get(name)
        elif kind == "sysctl" or word == "rfs":
            found = state["chosen"].get(word)
        else:
            continue
        # The kernel separates several numbers of a sysctl by tabs.
        if found != " ".join(str(value).split()):
            return f"{kind} {name} is {found}, not {value}".lstrip()
    rps = rps_mismatch(state, wanted)
    if rps:
        return rps
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            return f"{name} is {state['settings'].get(name)}, and was {value} before"
    return None


def server_load(cores, before, after, requests):
    """The load of the server: columns of its workers' cores and of its scheduler."""
    shares = proc.busy_shares(before["/proc/stat"], after["/proc/stat"])
    used = [shares[cpu] for cpu in cores if shares[cpu] is not None]
    switches = [int(re.search(rb"^ctxt (\d+)", part["/proc/stat"], re.M)[1])
                for part in (before, after)]
    ticks = proc.busy_ticks(before["/proc/stat"], after["/proc/stat"])
    return {"server_cpu_us_per_req": round(TICK_US * ticks / max(requests, 1), 1),
            "server_busy_pct": round(sum(used) / len(used), 1),
            "server_busy_min_pct": round(min(used), 1),
            "server_busy_max_pct": round(max(used), 1),
            "context_switches_per_req": round((switches[1] - switches[0]) / max(requests, 1), 3)}


def passed(pair, name):
    """Returns how much one counter has grown between two readings of all counters."""
    return pair[1][name] - pair[0][name]


def summed(texts):
    """Counters of several hosts, each the text of /proc/net/snmp and netstat, added by name."""
    total = Counter()
    for text in texts:
        total.update(proc.snmp(text))
    return total


def generator_busy(cell, load, lab):
    """Returns how busy a load generator was, %, by whichever was nearer to its limit.

    One is the tool's CPU time, as a share of what its threads can use. The other is the busiest
    core, interrupts and softirqs included: a NIC's queue may fill one core while the tool has time
    left. The lab is judged by the tool alone, since its cores are the server's, too.
    """
    real, user, system = map(float, load["time"].split())
    own = 100 * (user + system) / (real * tools.TOOLS[cell["tool"]].threads(cell, load))
    if lab:
        return own
    return max([own, *(share for share in proc.busy_shares(load["before"], load["after"]).values()
                       if share is not None)])


def tcp(server, client, requests):
    """Columns of TCP's counters; server, client: readings before and after."""
    columns = {
        "listen_overflows": passed(server, "TcpExtListenOverflows"),
        # A server that is a proxy sends SYNs, too.
        "syn_retransmits": (passed(client, "TcpExtTCPSynRetrans")
                            + passed(server, "TcpExtTCPSynRetrans")),
        "retransmits": passed(server, "TcpRetransSegs") + passed(client, "TcpRetransSegs")}
    if "TcpExtTCPTimeWaitOverflow" in server[1]:
        columns["time_wait_overflows_per_req"] = round(
            passed(server, "TcpExtTCPTimeWaitOverflow") / max(requests, 1), 4)
    return columns


def local_accepts(before, after):
    """Returns the module's column, if connections were accepted."""
    counts = [proc.table_sums(part["/proc/net/fastsocket"]) for part in (before, after)]
    local = passed(counts, "accept_local")
    accepts = local + sum(passed(counts, f"accept_{where}")
                          for where in ("global", "remote", "covered"))
    return {"local_accept_pct": round(100 * local / accepts, 3)} if accepts else {}


def machine_busy(load, busy):
    """Returns the busy share of the lab's machine, %; its guest never reports more than that.
    load: the load of the lab's only generator."""
    shares = [share for share in proc.busy_shares(load["before"], load["after"]).values()
              if share is not None]
    return max(busy, sum(shares) / len(shares))


def sample(cell, plan, loads, before, after, seen, lab, cores=()):
    """Metrics of a repetition, and why it is invalid or None.

    loads: sections of load.sh, of each generator; before, after: sections of server.sh counters;
    seen: sections of what perf printed, or None when the repetition was timed; lab:
    whether the load generator shares its machine with the server; cores: those of the workers,
    where they are not the first ones.
    """
    metrics, reason = tools.parsed(cell["tool"], loads)
    if reason:
        return metrics, reason
    shortest = metrics.pop(tools.SHORTEST, None)
    requests = metrics["requests"]
    if "latency_mean_ms" in metrics:
        metrics["held_connections"] = round(
            metrics["throughput_rps"] * metrics["latency_mean_ms"] / 1000, 1)
    metrics["loadgen_busy_pct"] = round(max(generator_busy(cell, load, lab) for load in loads), 1)
    metrics.update(server_load(cores or range(int(cell["workers"])), before, after, requests))
    server = [proc.snmp(part["/proc/net/snmp"] + part["/proc/net/netstat"])
              for part in (before, after)]
    client = [summed(load[part] for load in loads) for part in ("before", "after")]
    metrics.update(tcp(server, client, requests))
    if plan["setups"][cell["setup"]].get("preload"):
        metrics.update(local_accepts(before, after))
    fault = verdicts.degraded(cell, metrics, passed(server, "TcpPassiveOpens")
                              if "TcpPassiveOpens" in server[1] else None, shortest)
    if fault:
        metrics["degraded"] = fault

    saturation = None
    if plan["saturates"] and seen is None:
        saturation = metrics["server_busy_pct"]
        if lab:
            saturation = machine_busy(loads[0], saturation)
    if seen is not None:
        metrics.update(profiles.watched_metrics(seen, requests))
        metrics = {name: value for name, value in metrics.items()
                   if not DISTURBED.fullmatch(name)}
    stolen = max(proc.stolen_share(*pair) for pair in (
        (before["/proc/stat"], after["/proc/stat"]),
        *((load["before"], load["after"]) for load in loads)))
    warnings = proc.new_warnings(before["kernel warnings"], after["kernel warnings"])
    reason = verdicts.invalid(cell, metrics, warnings, stolen, saturation)
    if metrics["failed"]:
        reason = sources.ran_out(tools.TOOLS[cell["tool"]], int(cell["concurrency"]),
                                 loads) or reason
    return metrics, reason
