# SPDX-License-Identifier: GPL-2.0-only
"""Under which conditions a run is measured: what run.json says of hosts and sources, and what of
it may change when a run is taken up again.

Another server, kernel or build of what is measured is another run. Everything else that has
changed is recorded under "changes", with the repetition from which on it holds.
"""
import json
import shlex
import subprocess

import boots
import contract
from hosts import HERE, RunError

# The kernel reports slightly more or less memory at each boot: by this share at most.
MEMORY = 0.01
# A run may go on with another file of the module: srcversion tells whether its sources changed.
MAY_CHANGE = {"module_sha256"}
# Facts that depend on the number of cores with which the server was booted.
OF_A_BOOT = ("memory_mb", "siblings", "numa", "core_order")
# The same of one that is booted with each kernel.
OF_A_KERNEL = ("kernel", "command_line", "mitigations", "clock_source", "memory_mb",
               "module_srcversion", "module_sha256")
FRESH = "start a new run (plan.py --fresh, or -e fresh=true)"


def git(*words):
    """Also of a checkout that belongs to another user, which git would refuse: this program is a
    part of it, and trusted already."""
    return subprocess.run(["git", "-c", "safe.directory=*", "-C", HERE, *words],
                          capture_output=True, text=True, check=False).stdout.strip()


def same(name, old, new):
    if name == "memory_mb" and None not in (old, new):
        return abs(int(old) - int(new)) <= MEMORY * int(old)
    return old == new


def note(facts, name, old, new, first_order):
    facts.setdefault("changes", []).append(
        {"what": name, "was": old, "is": new, "first_order": first_order})


def last(facts, name, first):
    """Returns the value of a fact when it was last noted; first: its value when the run began."""
    return next((change["is"] for change in reversed(facts.get("changes", []))
                 if change["what"] == name), first)


def note_changes(facts, part, known, found, first_order):
    """Notes the names of two mappings under which both have a value, and not the same one."""
    for name in sorted(known.keys() & found.keys()):
        was = last(facts, f"{part} {name}", known[name])
        if not same(name, was, found[name]):
            note(facts, f"{part} {name}", was, found[name], first_order)


def record_server(facts, server, first_order):
    """Raises RunError if the server is not the one with which the run began. Adds the facts that
    an older version, which began the run, did not record."""
    known = facts.setdefault("server", {})
    changed = sorted(name for name in known if name not in MAY_CHANGE
                     and not same(name, known[name], server.get(name)))
    if changed:
        raise RunError(f"the server is not what the run began with ({', '.join(changed)} "
                       f"changed): {FRESH}")
    note_changes(facts, "server", {name: known.get(name, server.get(name)) for name in MAY_CHANGE},
                 server, first_order)
    facts["server"] = {**server, **known}


def record_generators(facts, generators, first_order):
    """A run is measured with as many load generators as it began with."""
    known = facts.get("loadgens", [facts["loadgen"]] if "loadgen" in facts else generators)
    if len(known) != len(generators):
        raise RunError(f"the load generators are {len(generators)}, and were {len(known)} when the "
                       f"run began: {FRESH}")
    facts.setdefault("loadgen", generators[0])
    if len(generators) > 1:
        facts.setdefault("loadgens", generators)
    for number, (old, new) in enumerate(zip(known, generators), 1):
        note_changes(facts, f"loadgen {number}", old, new, first_order)


def check_cores(plan, server, steps):
    """Takes the facts that belong to the boot out of the server's, and returns them."""
    cores, wanted = int(server["cores"]), plan["server_cores"]
    if not boots.by_workers(plan):
        if cores < wanted:
            raise RunError(f"the server has {cores} cores, and the experiment needs {wanted}: "
                           "give another server, or fewer: sweep_set of the playbook takes "
                           f"workers={cores} and server_cores={cores}")
        return {}
    if steps and cores != int(steps[0]["workers"]):
        raise RunError(f"the server has {cores} cores, and what is measured next needs "
                       f"{steps[0]['workers']}: boot it with as many (the lab: make lab-down, "
                       "and the same command again; other hosts: maxcpus= of their kernel)")
    levels = plan["factors"]["workers"]
    server["cores"] = f"{min(levels)} to {max(levels)}"
    return {"cores": cores, **{name: server.pop(name) for name in OF_A_BOOT if name in server}}


def check_kernel(plan, server, steps):
    """The same where the kernel is a factor."""
    kernels = boots.kernels(plan)
    if not kernels:
        return {}
    wanted = boots.kernel_of(plan, steps[0]) if steps else None
    if wanted and not boots.runs(server["kernel"], wanted):
        raise RunError(f"the server runs kernel {server['kernel']}, and what is measured next "
                       f"needs {wanted}: boot it with that (the lab: make lab-down, and the same "
                       "command again)")
    own = {name: server.pop(name) for name in OF_A_KERNEL if name in server}
    server["kernel"] = ", ".join(kernels)
    return own


def command(facts, inventory):
    """Returns the command that makes such a run; it is to be given in playbooks/."""
    plan = facts["plan"]
    words = ["ansible-playbook", "-i", f"inventory/{inventory}", "run-sweep.yml",
             "-e", f"experiment={plan['experiment']}", "-e", f"profile={plan['profile']}"]
    server = contract.server_of(facts)
    # Only the lab has an accelerator, and boots the kernel that it is told.
    if "accelerator" in server and not boots.kernels(plan):
        words += ["-e", f"kernel={'.'.join(server['kernel'].split('.')[:2])}"]
    if facts.get("settings"):
        words += ["-e", json.dumps({"sweep_set": facts["settings"]})]
    return shlex.join(words)


def keep_difference(run, commit):
    """Keeps the changes of the tree that are not committed; returns the file's name, or "".

    A run that goes on with another tree gets a further file.
    """
    changed = git("status", "--porcelain", "--", ":!/results")
    if not changed:
        return ""
    new = [line for line in changed.splitlines() if line.startswith("?? ")]
    text = "".join(f"{line}\n" for line in [
        f"commit {commit}", *new, git("diff", "HEAD", "--", ":!/results")])
    number = 1
    while (path := run / f"tree-{number}.diff").exists():
        if path.read_text(encoding="utf-8") == text:
            return path.name
        number += 1
    contract.write_file(path, text)
    return path.name


def record_sources(facts, run, first_order):
    commit = git("rev-parse", "HEAD")
    difference = keep_difference(run, commit)
    found = {"git_commit": commit, "git_dirty": bool(difference), "git_difference": difference}
    if "git_commit" in facts:
        note_changes(facts, "sources", {"git_difference": "", **facts}, found, first_order)
    for name, value in found.items():
        facts.setdefault(name, value)
