# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What run.py has done on the load generator, by bash -s:
#
#	facts					what the host is, one "name value" line each
#	ab  URL CONCURRENCY REQUESTS		apply load with ab
#	wrk URL CONCURRENCY SECONDS		apply load with wrk
#	redis-benchmark ADDRESS CONCURRENCY REQUESTS INSTANCES
#						apply load with as many of them, GETs
#	warm-up TOOL ...			the same as ab, or redis-benchmark's SETs; nothing kept
#	backend PROGRAM ADDRESS STATE		start the demo server for a proxy to forward to
#	stop STATE				stop it; its pid is in the folder STATE
#
# A load prints sections "==> name <==": before and after (counters), tool (its output),
# time (elapsed, user and system seconds); of ab also percentiles (its -e) and, last,
# requests (its -g, compressed); of redis-benchmark number, of requests that it was asked for.
set -euo pipefail

facts() {
	echo "os $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
	echo "kernel $(uname -r)"
	echo "cpu_model $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
	echo "cores $(nproc)"
	echo "memory_mb $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
	echo "packages $(dpkg-query -W apache2-utils wrk redis-tools 2> /dev/null | tr -s '\t\n' '= ')"
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

stop() { # STATE
	local pid
	[ -e "$1/backend" ] || return 0
	pid=$(< "$1/backend")
	# After a reboot another process may have the number.
	if tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'demo/server -m'; then
		kill "$pid"
		while [ -e "/proc/$pid" ]; do sleep 0.05; done
	fi
	rm "$1/backend"
}

backend() { # PROGRAM ADDRESS STATE
	stop "$3"
	mkdir -p "$3"
	# A socket for each worker: the backend is not what is measured.
	setsid "$1" -m reuseport -a "$2" > "$3/backend.log" 2>&1 < /dev/null &
	echo $! > "$3/backend"
	until grep -q '^ready:' "$3/backend.log"; do
		if ! [ -e "/proc/$!" ]; then
			cat "$3/backend.log" >&2
			exit 1
		fi
		sleep 0.05
	done
}

# Each has its share of connections and requests.
benchmarks() { # COMMAND ADDRESS CONCURRENCY REQUESTS INSTANCES
	local i
	for ((i = 0; i < $5; i++)); do
		redis-benchmark -h "$2" -p $((6379 + i)) -c $(($3 / $5)) -n $(($4 / $5)) -t "$1" -d 64 --csv &
	done
	wait
}

command=$1
shift
# A descriptor per connection.
ulimit -n "$(ulimit -Hn)"
case $command in
facts) facts ;;
backend) backend "$@" ;;
stop) stop "$@" ;;
warm-up)
	if [ "$1" = redis-benchmark ]; then
		benchmarks set "${@:2}" > /dev/null 2>&1
	else
		ab -q -r -n "$4" -c "$3" "$2" > /dev/null 2>&1
	fi
	;;
redis-benchmark)
	load benchmarks get "$@"
	echo "==> number <=="
	echo $(($3 / $4 * $4))
	;;
ab)
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	load ab -q -r -n "$3" -c "$2" -e "$tmp/percentiles" -g "$tmp/requests" "$1"
	echo "==> percentiles <=="
	# A failed ab writes neither.
	cat "$tmp/percentiles" || true
	echo "==> requests <=="
	xz -1 -c "$tmp/requests" || true
	;;
wrk)
	# The kernel needs CPU time too.
	threads=$((($(nproc) + 1) / 2))
	load wrk -t "$((threads < $2 ? threads : $2))" -c "$2" -d "$3s" --latency -H 'Connection: close' "$1"
	;;
esac
