#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command in a container, as an engine does for an ordinary user:

    container.py COMMAND [ARGUMENT...]

The container has namespaces of its own, no capabilities, and the default seccomp profile of Podman
and CRI-O. Its files are this machine's, read-only. The environment is the caller's.
"""
import json
import os
import platform
import subprocess
import sys
import tempfile

PROFILE = "/usr/share/containers/seccomp.json"
# The user in the container. This is not 0, since servers that run as root change their user.
USER = 1000
# As Podman does: the user is root in a namespace that has a network, where the runtime runs.
OUTSIDE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c",
           'ip link set lo up && exec "$@"', "sh"]
MACHINES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}


def seccomp(profile, machine, capabilities):
    """The rules of an engine's profile that hold here, as the runtime wants them.

    A rule may be for some machines only (arches), and for containers that have capabilities
    (includes) or lack them (excludes).
    """
    architecture, short = MACHINES[machine]

    def holds(rule):
        wanted, unwanted = rule["includes"], rule["excludes"]
        return (short in wanted.get("arches", [short])
                and capabilities.issuperset(wanted.get("caps", []))
                and short not in unwanted.get("arches", [])
                and capabilities.isdisjoint(unwanted.get("caps", [])))

    others = [one["subArchitectures"] for one in profile["archMap"]
              if one["architecture"] == architecture]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [architecture, *sum(others, [])],
        "syscalls": [{key: value for key, value in rule.items()
                      if key in ("names", "action", "errnoRet", "args") and value}
                     for rule in profile["syscalls"] if holds(rule)],
    }


def mount(to, kind, *options, source=None):
    return {"destination": to, "type": kind, "source": source or kind, "options": list(options)}


def config(command):
    """The configuration that a bundle has for its runtime, by OCI's runtime-spec."""
    with open(PROFILE, encoding="ascii") as file:
        profile = json.load(file)
    sets = "bounding", "effective", "inheritable", "permitted", "ambient"
    return {
        "ociVersion": "1.0.0",
        "process": {
            "args": command, "cwd": "/", "env": [f"{k}={v}" for k, v in os.environ.items()],
            "user": {"uid": USER, "gid": USER}, "noNewPrivileges": True,
            "capabilities": {name: [] for name in sets},
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            *(mount(path, "bind", "rbind", "ro", source=path) for path in ("/usr", "/etc")),
            mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            mount("/sys", "bind", "rbind", "ro", source="/sys"),
            mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755"),
            *(mount(path, "tmpfs", "nosuid", "nodev", "mode=1777")
              for path in ("/tmp", "/var/lib/nginx", "/dev/shm")),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("user", "pid", "ipc", "uts", "mount")],
            "uidMappings": [{"containerID": USER, "hostID": 0, "size": 1}],
            "gidMappings": [{"containerID": USER, "hostID": 0, "size": 1}],
            "seccomp": seccomp(profile, platform.machine(), set()),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                              "/proc/sysrq-trigger"],
        },
    }


def main():
    with tempfile.TemporaryDirectory() as bundle:
        os.mkdir(f"{bundle}/rootfs")
        for name in ("usr", "etc", "proc", "sys", "dev", "tmp"):
            os.mkdir(f"{bundle}/rootfs/{name}")
        for name in ("bin", "sbin", "lib", "lib64"):
            os.symlink(f"usr/{name}", f"{bundle}/rootfs/{name}")
        with open(f"{bundle}/config.json", "w", encoding="ascii") as file:
            json.dump(config(sys.argv[1:]), file)
        # The cgroup is the caller's, as an ordinary user may make none without a session.
        runtime = ["crun", f"--root={bundle}/state", "--cgroup-manager=disabled"]
        run = ["run", f"--bundle={bundle}", os.path.basename(bundle)]
        return subprocess.run([*OUTSIDE, *runtime, *run], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
