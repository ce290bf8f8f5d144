#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# provision.sh missing GROUP PACKAGE...	prints each of these Debian packages that the host lacks, and
#				on a server the headers of its kernel, if they are missing
# provision.sh set STATE SYSCTL=VALUE...	sets these, and prints "changed: ..." for each
#				that had another value, which is kept in STATE/sysctl for restore.sh.
#				The role provision gives this to bash -s behind experiments/host.sh
#
# As root, on a Debian host.
set -eu

# Also without host.sh: what is missing may be the Python that a module needs to join the two.
die() { echo "$(hostname): $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "provisioning needs root: log in as root, or as a user who may use sudo (ansible_become: true in the inventory)"

missing() { # GROUP PACKAGE...
	[ -x /usr/bin/python3 ] || die "Ansible's modules need Debian's Python: apt-get install python3"
	command -v dpkg-query > /dev/null || die "this is no Debian: give a host with Debian 12 or 13"
	group=$1
	shift
	if [ "$group" = server ] && ! [ -e "/lib/modules/$(uname -r)/build/Makefile" ]; then
		set -- "$@" "linux-headers-$(uname -r)"
	fi
	for package; do
		[ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] ||
			echo "$package"
	done
}

put() { # STATE SYSCTL=VALUE...
	state=$1
	shift
	begin_changes "$state"
	for setting; do
		name=${setting%%=*} value=${setting#*=}
		old=$(sysctl -n "$name" | tr '\t' ' ')
		[ "$old" = "$value" ] && continue
		grep -qs "^$name=" "$state/sysctl" || echo "$name=$old" >> "$state/sysctl"
		sysctl -qw "$setting"
		echo "changed: $name from $old to $value"
	done
}

command=$1
shift
case $command in
missing) missing "$@" ;;
set) put "$@" ;;
esac
