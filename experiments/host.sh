# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# server.sh, load.sh and the roles provision and tune share this file; hosts.py and the roles put it
# before them.
# FSB_ROOT: for tests, a folder with sys/ and proc/ of another machine.

die() { echo "$(hostname): $*" >&2; exit 1; }

# Called before the first change of a setting, each of which is recorded in STATE before it is made. One
# program at a time changes settings or puts them back (holding.py has the same names of locks). If the
# sweep that has started this one was interrupted, its hosts have been put back already.
begin_changes() { # STATE
	local lock boot
	lock=/run/fsbench$(echo "$1" | tr / -)
	exec 9> "$lock.lock"
	flock -w 60 9 || die "another program changes settings, or a sweep measures: wait for its end"
	if [ -n "${FSB_SWEEP:-}" ] && flock -n "$lock.sweep.lock" true; then
		die "the sweep was interrupted: nothing more is changed"
	fi
	mkdir -p "$1"
	# Settings that were recorded in an earlier boot are not those of this one.
	boot=$(cat /proc/sys/kernel/random/boot_id)
	if [ "$(cat "$1/boot" 2> /dev/null)" != "$boot" ]; then
		rm -f "$1/sysfs" "$1/queues" "$1/irqbalance" "$1/sysctl"
		echo "$boot" > "$1/boot"
	fi
}

# Prints what decides how fast a host is, one "name value" line each.
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
	# The lists tell which CPUs share a core, and which share a node's memory.
	echo "siblings $(sort -uV $cpus/cpu*/topology/thread_siblings_list 2> /dev/null | xargs)"
	echo "numa $(for name in /sys/devices/system/node/node*; do
		echo "${name##*/}: $(< "$name/cpulist")"
	done 2> /dev/null | xargs)"
	echo "memory_mb $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
	name=$(readlink "$nic/device/driver") || name=
	# The driver's version is the kernel's, and ethtool may be missing.
	echo "nic $1 ${name##*/} $({ ethtool -i "$1" | sed -n 's/^firmware-version: *\(..*\)/firmware \1/p'; } 2> /dev/null)"
	echo "nic_node $(nic_node "$1")"
}

# Installed ones, with their versions.
packages() { # PACKAGE...
	echo "packages $(dpkg-query -Wf '${Package} ${Version} ${db:Status-Status}\n' "$@" 2> /dev/null |
		awk '$NF == "installed" { printf "%s=%s ", $1, $2 }')"
}

# Prints the NUMA node of the NIC, as far as the kernel tells; that of virtio is its parent's, the PCI
# device's.
nic_node() { # NIC
	local device=${FSB_ROOT:-}/sys/class/net/$1/device
	cat "$device/numa_node" 2> /dev/null || cat "$device/../numa_node" 2> /dev/null || true
}

# Prints "NUMBER NAME" of each interrupt of the NIC's device; those of virtio belong to the parent,
# the PCI device. Without MSI, prints those that /proc/interrupts lists under the NIC's full name.
all_interrupts() { # NIC
	local device=${FSB_ROOT:-}/sys/class/net/$1/device interrupts=${FSB_ROOT:-}/proc/interrupts folder
	for folder in "$device/msi_irqs" "$device/../msi_irqs"; do
		[ -d "$folder" ] || continue
		find "$folder" -mindepth 1 -printf '%f:\n' |
			awk 'NR == FNR { own[$1]; next } $1 in own { print $1 + 0, $NF }' - "$interrupts"
		return
	done
	awk -v nic="$1" '{ n = $NF; sub(/:$/, "", $1) } \
		$1 ~ /^[0-9]+$/ && n ~ "(^|[^A-Za-z0-9])" nic "([^A-Za-z0-9]|$)" { print $1, n }' "$interrupts"
}

# Prints the interrupts of the NIC's receive queues, in the queues' order. Drivers name them input
# (virtio), rx, TxRx (Intel, Broadcom) or comp (mlx5); others number all their queues (mlx4, sfc,
# gve). Interrupts that control the device have other names.
receive_interrupts() { # NIC
	local all some
	all=$(all_interrupts "$1" |
		awk 'NF > 1 && tolower($2) !~ /config|async|mgmnt|misc|event|admin|control|ctrl|mbox|cmd|pages|(^|[^a-z])fw([^a-z]|$)/')
	some=$(echo "$all" | awk 'tolower($2) ~ /input|rx|comp/')
	[ -n "$some" ] || some=$(echo "$all" | awk '$2 ~ /[-.a-z][0-9]+(@.*)?$/')
	# The number at the end of the name, or before @, is the queue's.
	echo "${some:-$all}" | awk 'NF { n = $2; sub(/@.*/, "", n); match(n, /[0-9]+$/); print (RSTART ? substr(n, RSTART) : 0), $1 }' |
		sort -n -k 1,1 -k 2,2 | awk '{ print $2 }'
}

mask() { # CORE...: the hexadecimal mask of these cores, in groups of 32
	local core group groups=() mask last=0
	for core; do
		group=$((core / 32))
		last=$((group > last ? group : last))
		groups[group]=$((${groups[group]:-0} | 1 << (core % 32)))
	done
	printf -v mask %x "${groups[last]:-0}"
	while [ $last -gt 0 ]; do
		last=$((last - 1))
		printf -v mask %s,%08x "$mask" "${groups[last]:-0}"
	done
	echo "$mask"
}

# Prints the cores that are online, one in a line, in the order in which queues of the NIC and workers
# take them: one thread of each core comes before its SMT siblings, and cores on the NIC's NUMA node come
# before others. It is 0, 1, 2... where there is one node and no SMT.
core_order() { # NIC
	local sys=${FSB_ROOT:-}/sys node
	node=$(nic_node "$1")
	{
		echo "near $(cat "$sys/devices/system/node/node$node/cpulist" 2> /dev/null)"
		sort -u "$sys"/devices/system/cpu/cpu*/topology/thread_siblings_list 2> /dev/null | sed 's/^/core /' || true
		echo "online $(cat "$sys/devices/system/cpu/online" 2> /dev/null || echo "0-$(($(nproc) - 1))")"
	} | awk '
		{
			count = 0
			n = split($2, parts, ",")
			for (i = 1; i <= n; i++) {
				if (split(parts[i], ends, "-") == 1) ends[2] = ends[1]
				for (cpu = ends[1] + 0; cpu <= ends[2]; cpu++) list[++count] = cpu
			}
		}
		$1 == "near" { for (i = 1; i <= count; i++) near[list[i]] = 1 }
		$1 == "core" { for (i = 1; i <= count; i++) thread[list[i]] = i - 1 }
		$1 == "online" { for (i = 1; i <= count; i++) print thread[list[i]] + 0, !(list[i] in near), list[i] }' |
		sort -n -k 1,1 -k 2,2 -k 3,3 | awk '{ print $3 }'
}
