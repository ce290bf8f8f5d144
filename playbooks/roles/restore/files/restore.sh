#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# restore.sh STATE
#
# Restores the settings that provision.sh and tune.sh have recorded in STATE, stops a server
# that a sweep has left running, and unloads the module. Packages and files stay. After a
# reboot nothing is written back, since the settings did not survive it. If a setting cannot be
# restored, it is named, its record is kept, and the exit status is 1.
set -eu

state=$1
failed=

put_back() { # PATH VALUE
	# A file that is gone, such as that of a queue which the NIC no longer has, has nothing
	# to be put back.
	[ -e "$1" ] || return 0
	# The record is older than the change, which may not have come.
	if { read -r now < "$1"; } 2> /dev/null && [ "${now:-0}" = "$2" ]; then return 0; fi
	if echo "$2" 2> /dev/null > "$1"; then
		echo "changed: $1 is $2"
	else
		failed="$failed $1=$2"
	fi
}

if systemctl -q is-active fsbench-demo 2> /dev/null; then
	systemctl stop fsbench-demo
	echo "changed: server stopped"
fi
# Restore the settings of a repetition that was killed.
if [ -e /run/fsbench/undo ]; then
	while read -r path value; do
		put_back "$path" "$value"
	done < /run/fsbench/undo
	[ -n "$failed" ] || rm -f /run/fsbench/undo
fi
# Stop a backend on the load generator. After a reboot another process may have its number.
if [ -e "$state/backend" ] && read -r pid < "$state/backend" &&
	tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'demo/server -m'; then
	kill "$pid"
	echo "changed: backend stopped"
fi
# The role install loads the module, on a server; a module on a load generator is somebody else's. The
# server's last sockets may take a moment to close.
tries=0
while [ -d /usr/local/src/fsbench/kmod ] && [ -e /sys/module/fastsocket ] && [ "$tries" -lt 20 ]; do
	if rmmod fastsocket 2> /dev/null; then
		echo "changed: module unloaded"
		break
	fi
	tries=$((tries + 1))
	sleep 0.5
done
[ "$tries" -lt 20 ] || failed="$failed fastsocket=unloaded(some program uses the module)"
if [ -e "$state/boot" ] && [ "$(cat "$state/boot")" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
	echo "changed: the records of an earlier boot are deleted"
	rm -rf "$state"
fi
if [ -e "$state/queues" ]; then
	read -r nic queues < "$state/queues"
	if [ "$(ethtool -l "$nic" | awk '/^Combined/ { n = $2 } END { print n }')" = "$queues" ]; then
		:
	elif ethtool -L "$nic" combined "$queues"; then
		echo "changed: $nic has $queues queues"
	else
		failed="$failed $nic:queues=$queues"
	fi
fi
if [ -e "$state/sysfs" ]; then
	while read -r path value; do
		put_back "$path" "$value"
	done < "$state/sysfs"
fi
if [ -e "$state/sysctl" ]; then
	while read -r setting; do
		if sysctl -qw "$setting"; then
			echo "changed: $setting"
		else
			failed="$failed $setting"
		fi
	done < "$state/sysctl"
fi
if [ -e "$state/irqbalance" ]; then
	if systemctl start irqbalance; then
		echo "changed: irqbalance started"
	else
		failed="$failed irqbalance=started"
	fi
fi
[ -z "$failed" ] || {
	echo "$(hostname): these cannot be put back:$failed; the record is kept in $state, or in /run/fsbench/undo: set them by hand, or run teardown.yml again" >&2
	exit 1
}
rm -rf "$state"
