# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The commands that the role tune runs on a host, by bash -s, behind experiments/host.sh: STATE NIC
# --interrupts NIC	prints the interrupts of the NIC's receive queues, in the queues'
#				order, and changes nothing
#
# One queue and one interrupt for each core, as the original's nic script did:
#   queues      as many as cores, or as the NIC has
#   interrupts  queue i on core i; irqbalance is stopped, as it would undo that
#   RPS         off where every core has a queue, else all cores share the queues
#   XPS         queue i sends for core i
# Core i is the one in this place of core_order() of host.sh, which workers follow, too.
# Prints "changed: ..." and "warning: ...". The previous settings are kept in STATE for
# restore.sh, each before it is changed, with the ID of the boot to which they belong: "path value"
# lines of sysfs, the number of queues, irqbalance.
set -eu

state=$1 nic=$2
# For tests, this is a folder with sys/ and proc/ of another machine.
root=${FSB_ROOT:-}
sys=$root/sys/class/net/$nic

if [ "$state" = --interrupts ]; then
	receive_interrupts "$nic"
	exit
fi

[ -d "$sys" ] || die "there is no network interface $nic: correct bench_nic in the inventory (there are: $(cd /sys/class/net && echo *))"
begin_changes "$state"
mapfile -t order < <(core_order "$nic")
cores=${#order[@]}

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
	grep -qs "^$1 " "$state/sysfs" || echo "$1 ${old:-0}" >> "$state/sysfs"
	echo "$2" 2> /dev/null > "$1" || return 0
	echo "changed: $1 from $old to $2"
}

if systemctl -q is-active irqbalance 2> /dev/null; then
	touch "$state/irqbalance"
	systemctl stop irqbalance
	echo "changed: irqbalance stopped"
fi

if channels=$(ethtool -l "$nic" 2> /dev/null); then
	max=$(echo "$channels" | awk '/^Combined/ && $2 + 0 { print $2; exit }')
	now=$(echo "$channels" | awk '/^Combined/ { n = $2 } END { print n }')
	want=$((${max:-0} < cores ? ${max:-0} : cores))
	if [ "$want" -gt 0 ] && [ "$now" != "$want" ]; then
		[ -e "$state/queues" ] || echo "$nic $now" > "$state/queues"
		ethtool -L "$nic" combined "$want"
		echo "changed: $nic queues from $now to $want"
	fi
fi

queues=$(find "$sys/queues" -maxdepth 1 -name 'rx-*' | wc -l)
i=0
interrupts=$(receive_interrupts "$nic")
[ -n "$interrupts" ] ||
	echo "warning: no interrupts of $nic are known by name: see /proc/interrupts, and place them by hand"
for irq in $interrupts; do
	core=${order[i % cores]}
	want=$(mask "$core")
	put "$root/proc/irq/$irq/smp_affinity" "$want"
	# The kernel lets nobody move some drivers' interrupts.
	{ read -r now < "$root/proc/irq/$irq/smp_affinity"; } 2> /dev/null || now=
	significant "$now"
	[ "$digits" = "$want" ] ||
		echo "warning: interrupt $irq of $nic is not on core $core alone, and cannot be moved there: see /proc/irq/$irq/smp_affinity_list, and give the NIC's driver that core by its own options"
	i=$((i + 1))
done

if [ "$queues" -ge "$cores" ]; then
	rps=0
else
	rps=$(mask "${order[@]}")
	echo "warning: $nic has $queues queues for $cores cores: the others get their packets through RPS"
fi
i=0
while [ "$i" -lt "$queues" ]; do
	put "$sys/queues/rx-$i/rps_cpus" "$rps"
	[ "$queues" -lt "$cores" ] || put "$sys/queues/tx-$i/xps_cpus" "$(mask "${order[i % cores]}")"
	i=$((i + 1))
done

if command -v nft > /dev/null && [ -n "$(nft list ruleset 2> /dev/null)" ]; then
	echo "warning: firewall rules are loaded, and every packet passes them: see nft list ruleset"
fi
if [ -e /proc/sys/net/netfilter/nf_conntrack_count ]; then
	echo "warning: connection tracking is loaded; its table is shared by all cores"
fi
