# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What run.py has done on the server host, by bash -s, as root:
#
#	facts				what the host is, one "name value" line each
#	start MODE WORKERS PRELOAD [PARAMETER=VALUE...]
#					replace the demo server; says what really runs
#	counters			the kernel's counters
#	stop				stop the demo server
#	perf-start | perf-stop		a system-wide profile; perf-stop prints the report
#	perf-data			the profile itself
set -euo pipefail

unit=fsbench-demo
run=/run/fsbench
module=/sys/module/fastsocket
die() { echo "$(hostname): $*" >&2; exit 1; }

facts() {
	echo "os $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
	echo "kernel $(uname -r)"
	echo "cpu_model $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
	echo "cores $(nproc)"
	echo "memory_mb $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)"
	echo "clock_source $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
	echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
	[ ! -e $module/srcversion ] || echo "module_srcversion $(cat $module/srcversion)"
	echo "perf $(perf --version)"
	echo "packages $(dpkg-query -W linux-perf 'linux-image-*' gcc 2> /dev/null | tr -s '\t\n' '= ')"
}

stop() {
	systemctl stop $unit 2> /dev/null || true
}

# The state that a repetition ran in, as the kernel tells it.
readback() {
	local main pids
	main=$(systemctl show -P MainPID $unit)
	# No line end there, which read calls a failure.
	read -ra pids < "/proc/$main/task/$main/children" || true
	cd /proc
	awk '/^Cpus_allowed_list/ { split(FILENAME, part, "/"); print "worker", part[1], $2 }' \
		"${pids[@]/%//status}"
	echo "preloaded $(grep -ls libfsocket.so "${pids[@]/%//maps}" | wc -l)"
	[ ! -e $module ] || for name in "$module"/parameters/*; do
		echo "parameter ${name##*/} $(< "$name")"
	done
	echo "sysctl net.core.somaxconn $(< /proc/sys/net/core/somaxconn)"
	echo "sysctl net.ipv4.tcp_max_syn_backlog $(< /proc/sys/net/ipv4/tcp_max_syn_backlog)"
	for name in /sys/class/net/*/queues; do
		set -- "$name"/rx-*
		name=${name%/queues}
		[ "${name##*/}" = lo ] || echo "queues ${name##*/} $#"
	done
}

start() { # MODE WORKERS PRELOAD PARAMETER=VALUE...
	local mode=$1 workers=$2 preload=$3 options=()
	shift 3
	stop
	mkdir -p $run
	for setting; do
		echo "${setting#*=}" 2> /dev/null > "$module/parameters/${setting%%=*}" ||
			die "parameter $setting is not accepted by the module: see dmesg"
	done
	[ "$preload" = 0 ] ||
		options=(-E LD_PRELOAD=/usr/local/lib/libfsocket.so -E FSOCKET_REQUIRED=1)
	: > $run/out
	: > $run/err
	systemd-run -q --collect --unit=$unit -p LimitNOFILE=1048576 -p StandardOutput=append:$run/out \
		-p StandardError=append:$run/err "${options[@]}" \
		/usr/local/bin/fsbench-server -m "$mode" -w "$workers"
	until grep -q '^ready:' $run/out; do
		if ! systemctl -q is-active $unit; then
			cat $run/err >&2
			die "the demo server did not start"
		fi
		sleep 0.05
	done
	readback
}

counters() {
	tail -n +1 /proc/stat /proc/net/snmp /proc/net/netstat
	[ ! -e /proc/net/fastsocket ] || tail -n +1 /proc/net/fastsocket /dev/null
	echo "==> kernel warnings <=="
	dmesg --level=emerg,alert,crit,err,warn
	echo "==> demo stderr <=="
	[ ! -e $run/err ] || cat $run/err
}

# perf needs many seconds to start under load; it waits, recording nothing, until enabled.
perf_start() {
	local answer
	rm -f $run/perf.*
	mkfifo $run/perf.control $run/perf.ack
	systemd-run -q --collect --unit=fsbench-perf -p StandardError=append:$run/perf.log \
		perf record -q -a -g -F 499 -e cpu-clock -D -1 --control fifo:$run/perf.control,$run/perf.ack \
		-o $run/perf.data
	echo enable > $run/perf.control
	read -r answer < $run/perf.ack
	[ "$answer" = ack ] || die "perf record did not start: $(cat $run/perf.log)"
}

perf_stop() {
	echo stop > $run/perf.control
	while systemctl -q is-active fsbench-perf; do sleep 0.1; done
	perf report -q --no-children --sort symbol -g none -i $run/perf.data 2> /dev/null
}

command=$1
shift
case $command in
facts) facts ;;
start) start "$@" ;;
counters) counters ;;
stop)
	systemctl stop fsbench-perf 2> /dev/null || true
	stop
	;;
perf-start) perf_start ;;
perf-stop) perf_stop ;;
perf-data) cat $run/perf.data ;;
esac
