#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# tune.sh STATE NIC
# tune.sh --interrupts NIC	prints the interrupts of the NIC's receive queues, in the queues'
#				order, and changes nothing
#
# One queue and one interrupt for each core, as the original's nic script did:
#   queues      as many as cores, or as the NIC has
#   interrupts  queue i on core i; irqbalance is stopped, as it would undo that
#   RPS         off where every core has a queue, else all cores share the queues
#   XPS         queue i sends for core i
# Prints "changed: ..." and "warning: ...". The previous settings are kept in STATE for
# restore.sh, with the ID of the boot to which they belong: "path value" lines of sysfs,
# the number of queues, irqbalance.
set -eu

state=$1 nic=$2
# For tests, this is a folder with sys/ and proc/ of another machine.
root=${FSB_ROOT:-}
cores=$(nproc)
sys=$root/sys/class/net/$nic
die() { echo "$(hostname): $*" >&2; exit 1; }

# Prints "NUMBER NAME" of each interrupt of the NIC's device; those of virtio belong to the parent,
# the PCI device. Without MSI, prints those that /proc/interrupts lists under the NIC's full name.
all_interrupts() {
	for folder in "$sys/device/msi_irqs" "$sys/device/../msi_irqs"; do
		[ -d "$folder" ] || continue
		for irq in "$folder"/*; do
			irq=${irq##*/}
			echo "$irq $(awk -v irq="$irq:" '$1 == irq { print $NF }' "$root/proc/interrupts")"
		done
		return
	done
	awk -v nic="$nic" '{ n = $NF; sub(/:$/, "", $1) } \
		$1 ~ /^[0-9]+$/ && n ~ "(^|[^A-Za-z0-9])" nic "([^A-Za-z0-9]|$)" { print $1, n }' "$root/proc/interrupts"
}

# Drivers name the interrupts of receive queues input (virtio), rx, TxRx (Intel, Broadcom) or
# comp (mlx5); others number all their queues (mlx4, sfc, gve). Interrupts that control the device
# have other names.
receive_interrupts() {
	all=$(all_interrupts |
		awk 'NF > 1 && tolower($2) !~ /config|async|mgmnt|misc|event|admin|control|ctrl|mbox|cmd|pages|(^|[^a-z])fw([^a-z]|$)/')
	some=$(echo "$all" | awk 'tolower($2) ~ /input|rx|comp/')
	[ -n "$some" ] || some=$(echo "$all" | awk '$2 ~ /[-.a-z][0-9]+(@.*)?$/')
	# The number at the end of the name, or before @, is the queue's.
	echo "${some:-$all}" | awk 'NF { n = $2; sub(/@.*/, "", n); match(n, /[0-9]+$/); print (RSTART ? substr(n, RSTART) : 0), $1 }' |
		sort -n -k 1,1 -k 2,2 | awk '{ print $2 }'
}

if [ "$state" = --interrupts ]; then
	receive_interrupts
	exit
fi

[ -d "$sys" ] || die "there is no network interface $nic: correct bench_nic in the inventory (there are: $(cd /sys/class/net && echo *))"
mkdir -p "$state"
# Settings that were recorded in an earlier boot are not those of this one.
if [ "$(cat "$state/boot" 2> /dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
	rm -f "$state/sysfs" "$state/queues" "$state/irqbalance" "$state/sysctl"
	cat /proc/sys/kernel/random/boot_id > "$state/boot"
fi

significant() { # MASK: without the leading zeros and commas that kernel files print
	digits=$1
	while [ "$digits" != "${digits#[0,]}" ]; do digits=${digits#?}; done
}

put() { # PATH VALUE
	[ -w "$1" ] || return 0
	{ read -r old < "$1"; } 2> /dev/null || return 0
	significant "$2" && new=$digits
	significant "$old"
	[ "$digits" != "$new" ] || return 0
	echo "$2" 2> /dev/null > "$1" || return 0
	grep -qs "^$1 " "$state/sysfs" || echo "$1 ${old:-0}" >> "$state/sysfs"
	echo "changed: $1 from $old to $2"
}

mask() { # CORE: the hexadecimal mask of one core, in groups of 32
	m=$(printf %x $((1 << ($1 % 32))))
	i=$(($1 / 32))
	while [ "$i" -gt 0 ]; do
		m=$m,00000000
		i=$((i - 1))
	done
	echo "$m"
}

if systemctl -q is-active irqbalance 2> /dev/null; then
	systemctl stop irqbalance
	touch "$state/irqbalance"
	echo "changed: irqbalance stopped"
fi

if channels=$(ethtool -l "$nic" 2> /dev/null); then
	max=$(echo "$channels" | awk '/^Combined/ && $2 + 0 { print $2; exit }')
	now=$(echo "$channels" | awk '/^Combined/ { n = $2 } END { print n }')
	want=$((${max:-0} < cores ? ${max:-0} : cores))
	if [ "$want" -gt 0 ] && [ "$now" != "$want" ]; then
		ethtool -L "$nic" combined "$want"
		[ -e "$state/queues" ] || echo "$nic $now" > "$state/queues"
		echo "changed: $nic queues from $now to $want"
	fi
fi

queues=$(find "$sys/queues" -maxdepth 1 -name 'rx-*' | wc -l)
i=0
interrupts=$(receive_interrupts)
[ -n "$interrupts" ] ||
	echo "warning: no interrupts of $nic are known by name: see /proc/interrupts, and place them by hand"
for irq in $interrupts; do
	put "/proc/irq/$irq/smp_affinity" "$(mask $((i % cores)))"
	i=$((i + 1))
done

if [ "$queues" -ge "$cores" ]; then
	rps=0
else
	rps=
	i=0
	full=$((cores / 32))
	[ $((cores % 32)) = 0 ] || rps=$(printf %x $(((1 << (cores % 32)) - 1)))
	while [ "$i" -lt "$full" ]; do
		rps=${rps:+$rps,}ffffffff
		i=$((i + 1))
	done
	echo "warning: $nic has $queues queues for $cores cores: the others get their packets through RPS"
fi
i=0
while [ "$i" -lt "$queues" ]; do
	put "$sys/queues/rx-$i/rps_cpus" "$rps"
	[ "$queues" -lt "$cores" ] || put "$sys/queues/tx-$i/xps_cpus" "$(mask "$i")"
	i=$((i + 1))
done

if command -v nft > /dev/null && [ -n "$(nft list ruleset 2> /dev/null)" ]; then
	echo "warning: firewall rules are loaded, and every packet passes them: see nft list ruleset"
fi
if [ -e /proc/sys/net/netfilter/nf_conntrack_count ]; then
	echo "warning: connection tracking is loaded; its table is shared by all cores"
fi
