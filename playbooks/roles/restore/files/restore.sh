#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# restore.sh STATE
#
# Undoes what provision.sh and tune.sh recorded in STATE, stops a server that is
# left from a sweep, and unloads the module. Packages and files stay.
set -eu

state=$1

if systemctl -q is-active fsbench-demo 2> /dev/null; then
	systemctl stop fsbench-demo
	echo "changed: server stopped"
fi
# Settings of a repetition that was killed.
if [ -e /run/fsbench/undo ]; then
	while read -r path value; do
		echo "$value" > "$path" && echo "changed: $path is $value"
	done < /run/fsbench/undo
	rm /run/fsbench/undo
fi
# A backend, on the load generator; after a reboot another process may have its number.
if [ -e "$state/backend" ] && read -r pid < "$state/backend" &&
	tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'demo/server -m'; then
	kill "$pid"
	echo "changed: backend stopped"
fi
if [ -e /sys/module/fastsocket ] && rmmod fastsocket; then
	echo "changed: module unloaded"
fi
if [ -e "$state/queues" ]; then
	read -r nic queues < "$state/queues"
	ethtool -L "$nic" combined "$queues" && echo "changed: $nic has $queues queues"
fi
if [ -e "$state/sysfs" ]; then
	while read -r path value; do
		[ -w "$path" ] && echo "$value" > "$path" && echo "changed: $path is $value"
	done < "$state/sysfs"
fi
if [ -e "$state/sysctl" ]; then
	while read -r setting; do
		sysctl -qw "$setting" && echo "changed: $setting"
	done < "$state/sysctl"
fi
if [ -e "$state/irqbalance" ]; then
	systemctl start irqbalance && echo "changed: irqbalance started"
fi
rm -rf "$state"
