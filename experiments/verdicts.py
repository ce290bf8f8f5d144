# SPDX-License-Identifier: GPL-2.0-only
"""Which repetitions count: why one is invalid, or valid but degraded.

A rule that makes one setup invalid more often than another decides the result. So only faults that
do not depend on the setup make a repetition invalid; the rest degrades it.
"""
from tools import TOOLS

# Above this share, %, a load generator is the bottleneck; below this one a host is not
# saturated. (An emulated guest leaves up to a tenth of the machine idle, however many requests
# wait: docs/lab.md.)
LOADGEN_BUSY_MAX = 95
SATURATED_MIN = 80
# A virtual machine from which the hypervisor takes more than this share of time, %, is not
# measured.
STOLEN_MAX = 5
# The beginnings of reasons against which a larger load, or more load generators, may help.
SHORT_OF_LOAD = NOT_SATURATED, BOTTLENECK = ("not saturated",
                                             "the load generator was the bottleneck")
# Above this share of requests whose SYN was sent again, a repetition is valid but degraded.
# (Leaving it out would flatter the setups that lose more of them.)
SYN_TOLERATED = 0.001
# The server has accepted as many connections as there were requests, within this share.
ACCEPTS_TOLERATED = 0.05
# Connections under way on average by Little's law, as a share of the concurrency asked for.
LITTLE_TOLERATED = 0.1
# The first of several loads has ended after at least this share of the last one's time.
ENDED_TOLERATED = 0.9


def degraded_by_ends(metrics, shortest):
    """A load that ends late has the server for itself. shortest: s, or None with one load."""
    if shortest is not None and shortest < ENDED_TOLERATED * metrics["time_s"]:
        return (f"of the loads at one time the first ended after {shortest:g} s, the last after "
                f"{metrics['time_s']:g} s")
    return None


def degraded_by_syns(metrics):
    syns, requests = metrics["syn_retransmits"], max(metrics["requests"], 1)
    if syns > SYN_TOLERATED * requests:
        return (f"{100 * syns / requests:.2f} % of the connections waited for a second SYN "
                f"({100 * SYN_TOLERATED:g} % are tolerated)")
    return None


def degraded_by_little(metrics, concurrency):
    """Too few under way: the load ended before it had built up, or the tool could not keep
    it; too many: what the tool calls throughput and latency does not fit together."""
    held = metrics.get("held_connections")
    if held is not None and abs(held - concurrency) > max(LITTLE_TOLERATED * concurrency, 1):
        return f"by Little's law {held:.0f} connections were under way, not {concurrency}"
    return None


def degraded_by_accepts(requests, accepts, concurrency):
    """As many connections as are open at a time may be under way when the tool ends."""
    if abs(accepts - requests) > ACCEPTS_TOLERATED * requests + concurrency:
        return f"the tool counts {requests} requests, the server {accepts} connections"
    return None


def degraded(cell, metrics, accepts, shortest=None):
    """Why a repetition is degraded, in words, or None. accepts: the server's, or None; shortest:
    when the first of several loads ended, s, or None."""
    faults = [degraded_by_syns(metrics), degraded_by_ends(metrics, shortest)]
    tool = TOOLS[cell["tool"]]
    if tool.from_opening:
        faults.append(degraded_by_little(metrics, int(cell["concurrency"])))
    if accepts is not None and tool.connection_each:
        faults.append(degraded_by_accepts(metrics["requests"], accepts,
                                          int(cell["concurrency"])))
    return "; ".join(filter(None, faults)) or None


def invalid(cell, metrics, warnings, stolen, saturation):
    """The reason for which a repetition is invalid, in words, or None.

    stolen: what hypervisors kept from a host, %; saturation: how busy the machine was, %,
    or None where it need not be.
    """
    if metrics["failed"]:
        return f"{metrics['failed']} requests failed"
    if not metrics["requests"]:
        return "no request was answered"
    if warnings:
        return f"the kernel warned: {warnings[0]}"
    if stolen > STOLEN_MAX:
        return f"other virtual machines had {stolen:.0f} % of a host's time"
    # An open loop says itself when it could not keep its rate.
    if (metrics.get("loadgen_busy_pct", 0) > LOADGEN_BUSY_MAX
            and not TOOLS[cell["tool"]].open_loop):
        return (f"{BOTTLENECK}: {cell['tool']} used "
                f"{metrics['loadgen_busy_pct']} % of its CPU time, or of its busiest core: give "
                "more processes (processes=N), or more hosts in the group loadgen")
    if saturation is not None and saturation < SATURATED_MIN:
        return (f"{NOT_SATURATED}: only {saturation:.0f} % busy: give more connections "
                "(concurrency=N), or more processes or hosts that apply load")
    return None
