# SPDX-License-Identifier: GPL-2.0-only
"""Source ports of load generators, and the messages when they run out.

A connection needs an address and a port that no other connection to the server has: while it is
open, and for a minute more if the load generator closes it first, in TIME_WAIT. Where the server
does, as for ab, which waits for it, the server's host has the TIME_WAIT, and lets the port be used
again. So what a tool leaves in TIME_WAIT is counted, not assumed.
"""
import re

TIME_WAIT_S = 60
# The same with tcp_tw_reuse=1 and timestamps. 2, the default, holds for loopback only.
REUSED_S = 1
# From this share on, the ports in use count as all ports.
NEARLY = 0.9
OUT = "the load generator ran out of source ports (EADDRNOTAVAIL)"
# ab and wrk print this when ports run out; ab prints the second where it binds to an address.
SAID = re.compile(rb"connect(?:\(\): | to .* )Cannot assign requested address"
                  rb"|bind: Address already in use")
FOREIGN = re.compile(rb"bind: Cannot assign requested address")


def remedy(tool):
    """The remedy in words. tool: one of TOOLS."""
    if tool.binds:
        return ("give it more addresses (bench_source_addresses of the inventory), widen its "
                "net.ipv4.ip_local_port_range, or give more hosts in the group loadgen")
    return ("widen its net.ipv4.ip_local_port_range, give more hosts in the group loadgen, or "
            f"measure with ab, which can use several addresses, as {tool.name} cannot")


def capacity(load):
    """Returns how many connections to the server a generator can have at one time, or None where
    an older load.sh has not recorded its ports. load: sections of load.sh."""
    if "ports" not in load:
        return None
    first, last = map(int, load["ports"].split()[:2])
    return (last - first + 1) * int(load.get("addresses", 1))


def held_s(load):
    """The time for which TIME_WAIT keeps a port, s."""
    reuse, stamps = map(int, load["ports"].split()[2:4])
    return REUSED_S if reuse == 1 and stamps else TIME_WAIT_S


def waiting(counters):
    """Sockets of the generator in TIME_WAIT."""
    found = re.search(rb"^TCP: .*\btw (\d+)", counters, re.M)
    return int(found[1]) if found else 0


def named(tool, loads):
    """A sentence if the failed tool had no port, or not its address; or None."""
    for load in loads:
        if SAID.search(load.get("tool", b"")):
            return f"{OUT}: {remedy(tool)}"
        if FOREIGN.search(load.get("tool", b"")):
            return ("the load generator has lost an address of bench_source_addresses: add it "
                    "(ip address add), or take it out of the inventory")
    return None


def ran_out(tool, concurrency, loads):
    """Does what named() does, for a tool that only counts connections that it could not open."""
    for load in loads:
        most = capacity(load)
        if most and concurrency / len(loads) + waiting(load["after"]) >= NEARLY * most:
            return f"{OUT}: {remedy(tool)}"
    return None


def shortage(tool, metrics, loads):
    """A sentence if the next load like this one will run out of ports, or None."""
    for load in loads:
        most = capacity(load)
        if not most:
            continue
        left = max(waiting(load["after"]) - waiting(load["before"]), 0)
        # Of a longer load, only the sockets of its last minute are still there.
        rate = left / min(metrics["time_s"], TIME_WAIT_S)
        needed = round(rate * held_s(load))
        if needed > most:
            share = rate * len(loads) / metrics["throughput_rps"]
            return (f"{metrics['throughput_rps']:.0f} requests/s of {tool.name} leave {share:.2f} "
                    f"connections each in TIME_WAIT on their load generator, for {held_s(load)} s: "
                    f"that takes {needed:,} source ports, and it has {most:,}: {remedy(tool)}")
    return None


class Forecast:
    """Tells which repetitions will run out of source ports, from loads like theirs."""

    def __init__(self):
        self.sentences = {}     # by (setup, tool)

    def note(self, tool, step, metrics, loads, forwards):
        """forwards: the server is a proxy. Its backend, on the load generator, has sockets in
        TIME_WAIT that take no port of the tool's."""
        key = step["setup"], step["tool"]
        if metrics.get("throughput_rps") and not forwards and key not in self.sentences:
            sentence = shortage(tool, metrics, loads)
            if sentence:
                self.sentences[key] = sentence

    def tell(self, step):
        """Prints the sentence of such repetitions, once. Called before a repetition."""
        key = step["setup"], step["tool"]
        if self.sentences.get(key):
            print(f"{step['setup']}: {self.sentences[key]}", flush=True)
            self.sentences[key] = None
