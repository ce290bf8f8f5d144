# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What server.sh and load.sh share; hosts.py puts it before them.

# What decides how fast a host is, one "name value" line each.
host_facts() { # NIC
	local name cpus=/sys/devices/system/cpu nic=/sys/class/net/$1
	echo "os $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
	echo "kernel $(uname -r)"
	echo "cpu_model $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
	echo "microcode $(awk -F': ' '/^microcode/ { print $2; exit }' /proc/cpuinfo)"
	echo "mitigations $(cd $cpus/vulnerabilities 2> /dev/null &&
		grep -v '^Not affected' -- * | sed 's/:/: /; $!s/$/;/' | tr '\n' ' ')"
	echo "governor $(sort -u $cpus/cpu*/cpufreq/scaling_governor 2> /dev/null | xargs)"
	echo "cores $(nproc)"
	# Which CPUs share a core, and which share a node's memory.
	echo "siblings $(sort -uV $cpus/cpu*/topology/thread_siblings_list 2> /dev/null | xargs)"
	echo "numa $(for name in /sys/devices/system/node/node*; do
		echo "${name##*/}: $(< "$name/cpulist")"
	done 2> /dev/null | xargs)"
	echo "memory_mb $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
	name=$(readlink "$nic/device/driver") || name=
	# The driver's version is the kernel's, and ethtool may be missing.
	echo "nic $1 ${name##*/} $({ ethtool -i "$1" | sed -n 's/^firmware-version: *\(..*\)/firmware \1/p'; } 2> /dev/null)"
	echo "nic_node $(cat "$nic/device/numa_node" 2> /dev/null)"
}

# Installed ones, with their versions.
packages() { # PACKAGE...
	echo "packages $(dpkg-query -Wf '${Package} ${Version} ${db:Status-Status}\n' "$@" 2> /dev/null |
		awk '$NF == "installed" { printf "%s=%s ", $1, $2 }')"
}
