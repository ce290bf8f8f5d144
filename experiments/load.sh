# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What run.py has done on the load generator, by bash -s:
#
#	facts					what the host is, one "name value" line each
#	ab  URL CONCURRENCY REQUESTS		apply load with ab
#	wrk URL CONCURRENCY SECONDS		apply load with wrk
#	warm-up URL CONCURRENCY REQUESTS	the same as ab, and nothing kept
#
# A load prints sections "==> name <==": before and after (counters), tool (its output),
# time (elapsed, user and system seconds); of ab also percentiles (its -e) and, last,
# requests (its -g, compressed).
set -euo pipefail

facts() {
	echo "os $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
	echo "kernel $(uname -r)"
	echo "cpu_model $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
	echo "cores $(nproc)"
	echo "memory_mb $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
	echo "packages $(dpkg-query -W apache2-utils wrk | tr -s '\t\n' '= ')"
}

counters() {
	echo "==> $1 <=="
	cat /proc/net/snmp /proc/net/netstat /proc/stat
}

load() { # COMMAND...
	counters before
	echo "==> tool <=="
	TIMEFORMAT='==> time <==
%R %U %S'
	# A failed tool is judged by its output.
	{ time "$@" 2>&1 || echo "exit status $?"; } 2>&1
	counters after
}

command=$1
shift
# A descriptor per connection.
ulimit -n "$(ulimit -Hn)"
case $command in
facts) facts ;;
warm-up) ab -q -r -n "$3" -c "$2" "$1" > /dev/null 2>&1 ;;
ab)
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	load ab -q -r -n "$3" -c "$2" -e "$tmp/percentiles" -g "$tmp/requests" "$1"
	echo "==> percentiles <=="
	cat "$tmp/percentiles"
	echo "==> requests <=="
	xz -1 -c "$tmp/requests"
	;;
wrk)
	# The kernel needs CPU time too.
	threads=$((($(nproc) + 1) / 2))
	load wrk -t "$((threads < $2 ? threads : $2))" -c "$2" -d "$3s" --latency -H 'Connection: close' "$1"
	;;
esac
