#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# provision.sh STATE GROUP PACKAGE... -- SYSCTL=VALUE...
#
# Makes a Debian host ready, as root. Prints "changed: ..." for each change. The previous
# values of sysctls are kept in STATE/sysctl for restore.sh.
set -eu

state=$1 group=$2
shift 2
die() { echo "$(hostname): $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "provisioning needs root: log in as root, or as a user who may use sudo (ansible_become: true in the inventory)"

missing=
while [ "$1" != -- ]; do
	[ "$(dpkg-query -Wf '${db:Status-Status}' "$1" 2> /dev/null)" = installed ] ||
		missing="$missing $1"
	shift
done
shift
headers=linux-headers-$(uname -r)
if [ "$group" = server ] && ! [ -e "/lib/modules/$(uname -r)/build/Makefile" ]; then
	missing="$missing $headers"
fi
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update || true
	# shellcheck disable=SC2086 # a list
	apt-get -qq install --no-install-recommends $missing > /dev/null ||
		die "these packages cannot be installed:$missing"
	echo "changed: installed$missing"
	# Debian starts the servers that it installs; a sweep starts its own.
	for service in nginx haproxy redis-server; do
		case $missing in
		*" $service"*) systemctl -q disable --now $service ;;
		esac
	done
fi
if [ "$group" = server ] && ! [ -e "/lib/modules/$(uname -r)/build/Makefile" ]; then
	die "no headers for the running kernel: install the package $headers, or boot a kernel that has one"
fi

mkdir -p "$state"
# Settings recorded in an earlier boot say nothing about this one.
if [ "$(cat "$state/boot" 2> /dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
	rm -f "$state/sysfs" "$state/queues" "$state/irqbalance" "$state/sysctl"
	cat /proc/sys/kernel/random/boot_id > "$state/boot"
fi
for setting; do
	name=${setting%%=*} value=${setting#*=}
	old=$(sysctl -n "$name" | tr '\t' ' ')
	[ "$old" = "$value" ] && continue
	grep -qs "^$name=" "$state/sysctl" || echo "$name=$old" >> "$state/sysctl"
	sysctl -qw "$setting"
	echo "changed: $name from $old to $value"
done
