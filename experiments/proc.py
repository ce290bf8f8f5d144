# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's files in /proc as numbers. All functions take bytes and touch no host."""
import re


def sections(output):
    """Splits what a script printed at its lines "==> name <=="; values are bytes."""
    parts = re.split(rb"^==> (.*) <==\n", output, flags=re.M)
    return {name.decode(): text for name, text in zip(parts[1::2], parts[2::2])}


def snmp(text):
    """/proc/net/snmp and /proc/net/netstat: a line of names, a line of values."""
    counters = {}
    lines = text.decode().splitlines()
    for names, values in zip(lines, lines[1:]):
        prefix, _, rest = names.partition(": ")
        other, _, numbers = values.partition(": ")
        if prefix == other and not rest[:1].isdigit() and numbers[:1].lstrip("-").isdigit():
            counters.update({f"{prefix}{name}": int(number)
                             for name, number in zip(rest.split(), numbers.split())})
    return counters


def cpu_times(stat):
    """Per CPU of a /proc/stat: (busy, stolen, all) in ticks."""
    times = {}
    for cpu, values in re.findall(r"^cpu(\d+) (.*)$", stat.decode(), re.M):
        # guest and guest_nice are within user and nice
        ticks = [int(value) for value in values.split()[:8]]
        times[int(cpu)] = (sum(ticks) - ticks[3] - ticks[4], ticks[7], sum(ticks))
    return times


def busy_shares(before, after):
    """Per CPU, %; None where no tick has passed."""
    before, after = cpu_times(before), cpu_times(after)
    shares = {}
    for cpu, (busy, _, total) in after.items():
        passed = total - before[cpu][2]
        shares[cpu] = 100 * (busy - before[cpu][0]) / passed if passed else None
    return shares


def busy_ticks(before, after):
    """The busy share of all CPUs together, %."""
    before, after = cpu_times(before), cpu_times(after)
    return sum(busy - before[cpu][0] for cpu, (busy, _, _) in after.items())


def stolen_share(before, after):
    """Share of all CPUs' time that the hypervisor has taken from a virtual machine, %."""
    before, after = [[sum(part) for part in zip(*cpu_times(stat).values())]
                     for stat in (before, after)]
    return 100 * (after[1] - before[1]) / max(after[2] - before[2], 1)


def table_sums(text):
    """Column sums of a statistics file with a header row."""
    header, *rows = [line.split() for line in text.decode().splitlines() if line.strip()]
    return {name: sum(int(row[i]) for row in rows) for i, name in enumerate(header)}


def new_warnings(before, after):
    """Lines of a kernel log that are younger than all before, by their time stamps; text.

    The log is a ring: how long it was before does not tell where new lines begin.
    """
    def stamped(log):
        return [(float(stamp), line) for line, stamp in
                re.findall(r"^(\[ *([\d.]+)\].*)$", log.decode(errors="replace"), re.M)]

    old = {line for _, line in stamped(before)}
    since = max((stamp for stamp, _ in stamped(before)), default=-1.0)
    return [line for stamp, line in stamped(after) if stamp >= since and line not in old]
