# SPDX-License-Identifier: GPL-2.0-only
"""The module's ideas of 2014, each with the parameters that switch it on and off.

An experiment gets setups made of them: its key ideas lists groups, and a group's name stands for
its setups among the levels of the factor setup.

alone      listen, the local listeners alone, and only-NAME: one idea beside them
left-out   not-NAME: everything but this idea
adding-up  to-NAME: the ideas up to this one, in the paper's order. (The first steps are listen and
           only-vfs, the last ones not-epoll and everything.)

"parameters: everything" of a setup are those of all ideas.
"""
from typing import NamedTuple

# Switched off, so that setups beside the listeners measure no feature of the library.
PLAIN = {"enable_fast_epoll": 0}


class Idea(NamedTuple):
    """One idea; on and off: parameters by name, on beside PLAIN, off beside EVERYTHING."""
    name: str
    title: str
    idea: str
    successor: str          # the successor in Linux
    on: dict
    off: dict
    needs: str = ""         # name of the idea without which it does nothing


IDEAS = [
    Idea("listen", "listeners", "local listen table",
         "SO_REUSEPORT (3.9) and a BPF program (4.6), in servers written for them",
         {}, {"enable_listen_spawn": 0}),
    Idea("vfs", "VFS", "Fastsocket-aware VFS, socket pool",
         "sockets' dentries and inodes in no list (2.6.38 to 3.x)",
         {"enable_socket_pool_size": 64}, {"enable_socket_pool_size": 0}),
    Idea("established", "established", "local established table",
         "lookup without locks (2.6.29), early demux (3.6)",
         {"enable_local_established": 1}, {"enable_local_established": 0}),
    Idea("rfd", "RFD",
         "receive flow deliver (for active connections; see the experiment proxy)",
         "RFS (2.6.35), aRFS (2.6.39), ntuple filters",
         {"enable_rps_framework": 1, "enable_receive_flow_deliver": 1},
         {"enable_receive_flow_deliver": 0}),
    Idea("direct", "Direct-TCP", "Direct-TCP", "early demux and the socket's cached route (3.6)",
         {"enable_direct_tcp": 1}, {"enable_direct_tcp": 0}),
    Idea("rcs", "RCS", "receive CPU selection", "RFS (2.6.35)",
         {"enable_rps_framework": 1, "enable_receive_cpu_selection": 1},
         {"enable_receive_cpu_selection": 0}),
    Idea("epoll", "fast epoll", "fast epoll", "none",
         {"enable_fast_epoll": 1}, {"enable_fast_epoll": 0}),
    Idea("skb", "skb pool", "skb pool (for what RCS hands over)",
         "NAPI's and SLUB's caches of each CPU",
         {"enable_skb_pool": 1}, {"enable_skb_pool": 2}, needs="rcs"),
    Idea("send", "skb pool for sending", "skb pool (for what is sent)",
         "SLUB's caches of each CPU", {"enable_skb_pool": 2}, {"enable_skb_pool": 1}),
]
BY_NAME = {one.name: one for one in IDEAS}
# Both pools of packets are one parameter, of two bits.
EVERYTHING = {name: value for one in IDEAS for name, value in one.on.items()} | {
    "enable_skb_pool": 3}
# The ideas whose steps of adding up have no other name.
STEPS = ("established", "rfd", "direct", "rcs")


def alone():
    """Setups by name: each idea beside the local listeners."""
    setups = {}
    for one in IDEAS:
        needed = BY_NAME.get(one.needs)
        setup = {"preload": True, "idea": one.idea, "successor": one.successor,
                 "parameters": {**PLAIN, **(needed.on if needed else {}), **one.on}}
        if one.name == "listen":
            setups["listen"] = {**setup, "text": "local listeners alone"}
            continue
        titles = ["listeners", *([needed.title] if needed else []), one.title]
        setups[f"only-{one.name}"] = {**setup, "text": " + ".join(titles),
                                      "baseline": f"only-{needed.name}" if needed else "listen"}
    return setups


def left_out():
    """Setups by name: each idea left out of everything, which a setup "all" has to be."""
    return {f"not-{one.name}": {"preload": True, "parameters": {**EVERYTHING, **one.off},
                                "baseline": "all", "text": f"all but {one.title}",
                                "idea": one.idea} for one in IDEAS}


def adding_up():
    """Setups by name: the ideas up to each, in the paper's order."""
    setups, parameters = {}, {**PLAIN, **BY_NAME["vfs"].on}
    for name in STEPS:
        parameters = {**parameters, **BY_NAME[name].on}
        setups[f"to-{name}"] = {"preload": True, "parameters": parameters,
                                "text": f"listeners to {BY_NAME[name].title}"}
    return setups


GROUPS = {"alone": alone, "left-out": left_out, "adding-up": adding_up}


def spread(levels):
    """Levels of the factor setup, a list, with the names of groups replaced by their setups'."""
    return [name for level in levels
            for name in (GROUPS[level]() if level in GROUPS else [level])]


def settle(experiment, groups):
    """Puts the setups of these groups, and what everything is, into an experiment."""
    for group in groups:
        experiment["setups"].update(GROUPS[group]())
    for setup in experiment["setups"].values():
        if setup.get("parameters") == "everything":
            setup["parameters"] = dict(EVERYTHING)
    if "setup" in experiment.get("factors", {}):
        experiment["factors"]["setup"] = spread(experiment["factors"]["setup"])
