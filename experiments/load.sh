# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The commands that run.py runs on the load generator, by bash -s, behind host.sh:
#
#	facts ADDRESS PACKAGE...		describe the host, one "name value" line each
#	load FILE... -- COMMAND... [-- COMMAND...]...	apply load with these commands at a time
#	warm-up COMMAND... [-- COMMAND...]...		the same; keep nothing
#	ready COMMAND WORD...		print "ready", read a line, and do the command: several hosts that
#					are told at once start at once
#	addresses ADDRESS...		fails where the host lacks one of these
#	answer ADDRESS PORT PATH		what the server answers to one request
#	backend PROGRAM ADDRESS STATE		start the demo server for a proxy to forward to
#	stop STATE				stop it; its pid is in the folder STATE
#
# A load prints sections "==> name <==": before and after (counters), tool (the commands' output, one
# after the other), time (elapsed, user and system seconds), ports (which there are for connections, and
# whether those in TIME_WAIT are used again), and each FILE that the commands have
# written into the folder that they run in, and FILE.* behind it; FILE.xz is FILE, compressed, and
# has to be the last.
set -euo pipefail

facts() { # ADDRESS PACKAGE...
	# The NIC that a load for this address leaves by.
	host_facts "$(ip -o route get "$1" | sed 's/.* dev \([^ ]*\).*/\1/')"
	shift
	packages "$@"
}

counters() {
	echo "==> $1 <=="
	cat /proc/net/snmp /proc/net/netstat /proc/stat /proc/net/sockstat
}

addresses() { # ADDRESS...
	local address
	for address in "$@"; do
		[ -z "$(ip -o address show to "$address")" ] || continue
		echo "it has no address $address: ip address add $address/LENGTH dev NIC, or take it" \
			"out of bench_source_addresses" >&2
		return 1
	done
}

# If a load wants it, each command's output is a file in $tmp/.out, so that their lines do not mix.
together() { # COMMAND... [-- COMMAND...]...
	local word words=() pids=() pid status=0
	for word in "$@" --; do
		if [ "$word" != -- ]; then
			words+=("$word")
			continue
		fi
		if [ -n "${tmp:-}" ]; then
			"${words[@]}" > "$(printf '%s/.out/%03d' "$tmp" ${#pids[@]})" 2>&1 &
		else
			"${words[@]}" &
		fi
		pids+=($!)
		words=()
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || status=$?
	done
	return $status
}

load() { # FILE... -- COMMAND... [-- COMMAND...]...
	local file files=()
	while [ "$1" != -- ]; do
		files+=("$1")
		shift
	done
	shift
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	cd "$tmp"
	mkdir .out
	counters before
	TIMEFORMAT='==> time <==
%R %U %S'
	# run.py judges a failed tool by its output.
	{ time together "$@" || echo "exit status $?"; } > .time 2>&1
	counters after > .after
	echo "==> tool <=="
	cat .out/*
	cat .time .after
	echo "==> ports <=="
	(cd /proc/sys/net/ipv4 && cat ip_local_port_range tcp_tw_reuse tcp_timestamps)
	for file in "${files[@]}"; do
		echo "==> ${file%.xz} <=="
		# A failed tool writes none.
		compgen -G "${file%.xz}*" > /dev/null || continue
		if [ "$file" = "${file%.xz}" ]; then
			cat "$file" "$file".* 2> /dev/null || true
		else
			cat "${file%.xz}" "${file%.xz}".* 2> /dev/null | xz -1 -c || true
		fi
	done
}

answer() { # ADDRESS PORT PATH
	exec 3<> "/dev/tcp/$1/$2"
	printf 'GET %s HTTP/1.0\r\nHost: %s\r\n\r\n' "$3" "$1" >&3
	cat <&3
}

stop() { # STATE
	local pid
	[ -e "$1/backend" ] || return 0
	pid=$(< "$1/backend")
	# After a reboot another process may have this number.
	if tr '\0' ' ' 2> /dev/null < "/proc/$pid/cmdline" | grep -q 'demo/server -m'; then
		kill "$pid"
		while [ -e "/proc/$pid" ]; do sleep 0.05; done
	fi
	rm "$1/backend"
}

backend() { # PROGRAM ADDRESS STATE
	stop "$3"
	mkdir -p "$3"
	# The backend gets a socket for each worker, so that it does not limit what is measured.
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

main() {
	local command
	if [ "$1" = ready ]; then
		echo ready
		# The line behind this script on its standard input, of which bash reads no more than it
		# has to: so this is a function, which is called in the last line.
		read -r _
		shift
	fi
	command=$1
	shift
	# A descriptor per connection.
	ulimit -n "$(ulimit -Hn)"
	case $command in
	facts) facts "$@" ;;
	backend) backend "$@" ;;
	stop) stop "$@" ;;
	warm-up) together "$@" > /dev/null 2>&1 ;;
	load) load "$@" ;;
	addresses) addresses "$@" ;;
	answer) answer "$@" ;;
	esac
}

main "$@"
