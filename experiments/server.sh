# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# The commands that run.py runs on the server host, by bash -s, as root, behind host.sh:
#
#	facts NIC PACKAGE...	describe the host, one "name value" line each
#	defaults		load the module again; print its parameters, one "name value" line each
#	start WORD... -- COMMAND...	replace the server; print what really runs
#	in-force		print what is in force of the library (also in start's output)
#	halt SECONDS		stop one worker, and continue it after this many seconds
#	counters		the kernel's counters
#	stop			stop the server, put settings back
#	perf-start | perf-stop	a system-wide profile; perf-stop prints the report
#	perf-data		the profile itself
#	symbols			the kernel's symbols
#	counts-probe | counts-start | counts-stop	the processor's counters; counts-stop
#				prints them
#	locks-start | locks-stop	record contended locks and count the server's system
#				calls; locks-stop prints both
#
# The words of start:
#	server=NAME		for messages
#	workers=N told=children|threads|itself	the number of its workers, and which tasks they are
#	port=N listeners=N	its first port, and the number of its ports: a socket waits at each
#	says=TEXT		the beginning of a line that it prints when it is ready; empty: it is
#				ready when its sockets wait and its workers are there
#	pin=0|1			1: pin workers that may run on several cores to one each
#	cores=N,...		those of the workers, where they are not the first ones (core_order())
#	config=TEXT		its configuration, put into $run/config
#	preload=0|1 library=module|kernel	under libfsocket.so, and with which backend
#	environment:NAME=VALUE	of the server
#	rfs=0|1 nic=NAME	the kernel's Receive Flow Steering, on the queues of NAME
#	rps=0|workers		workers: RPS moves the packets of each queue of NAME whose interrupt
#				hits a core without a worker to one worker's core; 0: as tuned
#	parameter:NAME=VALUE	of the module; those not named stay as they are
#	sysctl:NAME=VALUE	until the next start, or stop
set -euo pipefail

unit=fsbench-demo
run=/run/fsbench
module=/sys/module/fastsocket
trace=/sys/kernel/tracing

facts() { # NIC PACKAGE...
	local order
	host_facts "$1"
	order=$(core_order "$1" | xargs)
	[ "$order" = "$(seq -s ' ' 0 $(($(nproc) - 1)))" ] || echo "core_order $order"
	echo "command_line $(< /proc/cmdline)"
	echo "clock_source $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
	echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
	[ ! -e $module/srcversion ] || echo "module_srcversion $(cat $module/srcversion)"
	sha256 module "$(modinfo -n fastsocket 2> /dev/null || true)"
	sha256 library /usr/local/lib/libfsocket.so
	sha256 demo /usr/local/bin/fsbench-server
	echo "perf $(perf --version)"
	echo "profile_event $(profile_event)"
	shift
	packages linux-perf 'linux-image-*' gcc libc6 "$@"
}

sha256() { # NAME FILE
	[ ! -f "$2" ] || echo "$1_sha256 $(sha256sum < "$2" | cut -c1-64)"
}

# Settings of earlier repetitions are put back, also those of one that was killed.
undo() {
	local path value
	[ -e $run/undo ] || return 0
	while read -r path value; do
		echo "$value" > "$path"
	done < $run/undo
	rm -f $run/undo
}

stop() {
	systemctl stop $unit 2> /dev/null || true
	undo
}

put() { # PATH VALUE
	local old
	[ -e "$1" ] || die "$1: there is none on this host"
	old=$(< "$1")
	[ "$old" != "$2" ] || return 0
	echo "$1 $old" >> $run/undo
	echo "$2" 2> /dev/null > "$1" || die "$1: $2 is refused by the kernel"
}

defaults() {
	local file
	stop
	# The server's last sockets may take a moment to close.
	SECONDS=0
	while [ -e $module ] && ! rmmod fastsocket 2> /dev/null; do
		[ $SECONDS -lt 10 ] ||
			die "the module fastsocket is in use: stop the programs that use it"
		sleep 0.2
	done
	modprobe fastsocket || die "the module fastsocket does not load: run install.yml"
	for file in "$module"/parameters/*; do
		echo "${file##*/} $(< "$file")"
	done
}

# Some parameters are refused while others are off, or on: so try again as long as any is
# accepted.
set_parameters() { # NAME=VALUE...
	local left=("$@") refused setting
	while [ ${#left[@]} != 0 ]; do
		refused=()
		for setting in "${left[@]}"; do
			echo "${setting#*=}" 2> /dev/null > "$module/parameters/${setting%%=*}" ||
				refused+=("$setting")
		done
		[ ${#refused[@]} -lt ${#left[@]} ] ||
			die "parameter ${refused[0]} is not accepted by the module: see dmesg"
		left=("${refused[@]}")
	done
}

# rps_cpus stays as tuned, or as set_rps sets it: where each core has a queue, RPS would only move
# packets of flows that no program has asked for yet.
set_rfs() { # 0|1
	local queue entries=$(($1 * 32768)) queues=("/sys/class/net/${want[nic]}/queues"/rx-*)
	put /proc/sys/net/core/rps_sock_flow_entries $entries
	for queue in "${queues[@]}"; do
		put "$queue/rps_flow_cnt" $((entries / ${#queues[@]}))
	done
}

# The numbers of the receive queues' interrupts. Finding them starts a dozen programs, so it is done once.
find_interrupts() {
	[ -n "${interrupts+known}" ] || mapfile -t interrupts < <(receive_interrupts "${want[nic]}")
}

# Prints "receives QUEUE CORE CPUS" for each receive queue: the core that its interrupt hits, "-" if
# that is not known, and the mask of the cores to which RPS moves its packets.
receives() {
	local queue core cpus i
	find_interrupts
	for ((i = 0; ; i++)); do
		queue=/sys/class/net/${want[nic]}/queues/rx-$i
		[ -e "$queue" ] || break
		core=
		{ read -r core < "/proc/irq/${interrupts[i]:-none}/effective_affinity_list"; } 2> /dev/null || true
		core=${core%%[-,]*}
		read -r cpus < "$queue/rps_cpus"
		echo "receives rx-$i ${core:--} $cpus"
	done
}

# Prints "interrupts NIC CORES;..." with the cores that the interrupt of each receive queue may hit. The
# one that it does hit follows a change of these only when the next interrupt comes.
interrupts() {
	find_interrupts
	[ ${#interrupts[@]} = 0 ] ||
		echo "interrupts ${want[nic]} $(cd /proc/irq && cat "${interrupts[@]/%//smp_affinity_list}" | paste -sd ';')"
}

# Workers' cores take the packets of other cores' queues in turn.
set_rps() { # 0|workers
	local pids own queue core turn=0 to
	[ "$1" = workers ] || return 0
	mapfile -t pids < <(workers)
	mapfile -t own < <(cores "${pids[@]}" | awk '$3 ~ /^[0-9]+$/ { print $3 }' | sort -nu)
	# If no worker has a core of its own, the readback says so.
	[ ${#own[@]} != 0 ] || return 0
	while read -r _ queue core _; do
		[ "$core" != - ] ||
			die "${want[nic]}: the interrupt of its receive queue $queue is not known, so rps: workers cannot be set"
		to=0
		if ! printf '%s\n' "${own[@]}" | grep -qx "$core"; then
			to=$(mask "${own[turn % ${#own[@]}]}")
			turn=$((turn + 1))
		fi
		put "/sys/class/net/${want[nic]}/queues/$queue/rps_cpus" "$to"
	done < <(receives)
}

# 1 and 0: either all settings of RFS are set, or none is.
rfs() {
	local nic=/sys/class/net/${want[nic]}/queues all off
	all=$(cat /proc/sys/net/core/rps_sock_flow_entries "$nic"/rx-*/rps_flow_cnt)
	off=$(grep -cx 0 <<< "$all" || true)
	if [ "$off" = 0 ]; then
		echo 1
	elif [ "$off" = "$(wc -l <<< "$all")" ]; then
		echo 0
	else
		echo partly
	fi
}

workers() {
	local main
	main=$(systemctl show -P MainPID $unit)
	case ${want[told]} in
	threads) ls "/proc/$main/task" ;;
	children) tr -s ' ' '\n' < "/proc/$main/task/$main/children" ;;
	itself) echo "$main" ;;
	esac | grep .
}

cores() { # PID...: "worker PID CORES" lines
	cd /proc
	awk '/^Cpus_allowed_list/ { split(FILENAME, part, "/"); print "worker", part[1], $2 }' \
		"${@/%//status}"
}

# Prints the number of sockets that wait at the server's ports: those of IPv4, which the load uses;
# a server without these accepts by those of IPv6.
listening() { # FIRST-PORT NUMBER
	local family found
	for family in -4 -6; do
		found=$(ss -Hltn $family sport ge ":$1" and sport lt ":$(($1 + $2))" | wc -l)
		[ "$found" = 0 ] || break
	done
	echo "$found"
}

# Prints the module's local listeners and accepts since the machine was booted.
module_used() {
	[ -e /proc/net/fastsocket ] || { echo 0; return; }
	awk 'NR == 1 { for (i = 2; i <= NF; i++) if ($i ~ /^(spawn|accept_)/) used[i] }
		NR > 1 { for (i in used) sum += $i }
		END { print sum + 0 }' /proc/net/fastsocket
}

# With the kernel backend, a socket for each worker listens beside the program's own, no worker has
# the module's device, and the module does nothing for them. A worker that has waited alone so far
# joins when it wakes, so this is true only after a load.
in_force() {
	local pids ports
	mapfile -t pids < $run/workers
	read -ra ports < $run/ports
	echo "backend sockets $(listening "${ports[@]}")"
	echo "backend devices $(cd /proc && find "${pids[@]/%//fd}" -lname /dev/fastsocket \
		-printf '%h\n' 2> /dev/null | sort -u | wc -l)"
	echo "backend module $(($(module_used) - $(< $run/module-used)))"
}

# Prints the state in which a repetition runs, as the kernel reports it.
readback() {
	local pids name
	mapfile -t pids < <(workers)
	[ ${#pids[@]} != 0 ] ||
		die "${want[server]} has no workers: ${want[told]} of its process are not there (a server that serves alone has workers: itself)"
	echo "${pids[0]}" > $run/worker
	printf '%s\n' "${pids[@]}" > $run/workers
	cores "${pids[@]}"
	echo "preloaded $(cd /proc && grep -ls libfsocket.so "${pids[@]/%//maps}" | wc -l)"
	in_force
	[ ! -e $module ] || for name in "$module"/parameters/*; do
		echo "parameter ${name##*/} $(< "$name")"
	done
	echo "chosen rfs $(rfs)"
	receives
	interrupts
	for name in "${!want[@]}"; do
		[[ $name != sysctl:* ]] || echo "chosen $name $(sysctl -n "${name#*:}")"
	done
	echo "sysctl net.core.somaxconn $(< /proc/sys/net/core/somaxconn)"
	echo "sysctl net.ipv4.tcp_max_syn_backlog $(< /proc/sys/net/ipv4/tcp_max_syn_backlog)"
	for name in /sys/class/net/*/queues; do
		set -- "$name"/rx-*
		name=${name%/queues}
		[ "${name##*/}" = lo ] || echo "queues ${name##*/} $#"
	done
}

# Pins workers that may run on several cores to those of the workers' cores that no other worker has.
pin() { # PID...
	local pid core taken own free=()
	taken=$(cores "$@" | awk '$3 ~ /^[0-9]+$/ { print $3 }')
	own=${want[cores]:-$(seq -s , 0 $((want[workers] - 1)))}
	for core in ${own//,/ }; do
		grep -qx "$core" <<< "$taken" || free+=("$core")
	done
	for pid; do
		if cores "$pid" | grep -qE '[-,]' && [ ${#free[@]} != 0 ]; then
			taskset -cp "${free[0]}" "$pid" > /dev/null
			free=("${free[@]:1}")
		fi
	done
}

# All workers are there, each on one core, and wait for connections.
ready() {
	local pids
	[ -z "${want[says]}" ] || { grep -q "^${want[says]}" $run/out; return; }
	[ "$(listening "${want[port]}" "${want[listeners]}")" -ge "${want[listeners]}" ] || return
	mapfile -t pids < <(workers 2> /dev/null)
	[ ${#pids[@]} = "${want[workers]}" ] || return
	[ "${want[pin]}" = 0 ] || pin "${pids[@]}" 2> /dev/null
	[ "$(cores "${pids[@]}" 2> /dev/null | grep -cE ' [0-9]+$')" = "${want[workers]}" ]
}

declare -A want
start() { # WORD... -- COMMAND...
	local word name parameters=() options=()
	stop
	mkdir -p $run
	while [ "$1" != -- ]; do
		word=$1
		want[${word%%=*}]=${word#*=}
		[[ $word != parameter:* ]] || parameters+=("${word#parameter:}")
		shift
	done
	shift
	set_parameters "${parameters[@]}"
	for word in "${!want[@]}"; do
		[[ $word != sysctl:* ]] || put "/proc/sys/$(tr . / <<< "${word#*:}")" "${want[$word]}"
	done
	set_rfs "${want[rfs]}"
	for name in "${!want[@]}"; do
		[[ $name != environment:* ]] || options+=(-E "${name#*:}=${want[$name]}")
	done
	# With the kernel backend a server that cannot use it goes on, and the readback says so.
	case ${want[preload]}${want[library]} in
	1module) options+=(-E LD_PRELOAD=/usr/local/lib/libfsocket.so -E FSOCKET_REQUIRED=1) ;;
	1kernel) options+=(-E LD_PRELOAD=/usr/local/lib/libfsocket.so -E FSOCKET_BACKEND=kernel) ;;
	esac
	# The library, too, then chooses among these cores for workers that are not pinned.
	[ -z "${want[cores]:-}" ] || options+=(-p "CPUAffinity=${want[cores]}")
	echo "${want[config]}" > $run/config
	echo "${want[port]} ${want[listeners]}" > $run/ports
	module_used > $run/module-used
	: > $run/out
	: > $run/err
	# systemd puts variables into words with a dollar sign, unless there are two.
	systemd-run -q --collect --unit=$unit -p LimitNOFILE=1048576 -p StandardOutput=append:$run/out \
		-p StandardError=append:$run/err "${options[@]}" "${@//\$/\$\$}"
	SECONDS=0
	# After half a minute the readback says what is missing.
	until ready || [ $SECONDS -gt 30 ]; do
		if ! systemctl -q is-active $unit; then
			cat $run/err >&2
			die "${want[server]} did not start"
		fi
		sleep 0.05
	done
	set_rps "${want[rps]}"
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

# This also stops what a killed sweep has left.
end_perf() {
	local one
	for one in perf locks syscalls counts; do
		systemctl stop fsbench-$one 2> /dev/null || true
	done
	probes off
}

# perf needs many seconds to start under load; it waits, recording nothing, until enabled.
prepare() { # NAME PERF-WORD...
	local name=$1
	shift
	rm -f "$run/$name".*
	mkfifo "$run/$name.control" "$run/$name.ack"
	systemd-run -q --collect --unit="fsbench-$name" -p StandardError=append:"$run/$name.log" \
		perf "$@" -D -1 --control "fifo:$run/$name.control,$run/$name.ack" -o "$run/$name.data"
}

enable() { # NAME
	local answer
	echo enable > "$run/$1.control"
	read -r answer < "$run/$1.ack"
	[ "$answer" = ack ] || die "perf did not start: $(cat "$run/$1.log")"
}

ended() { # NAME
	while systemctl -q is-active "fsbench-$1"; do sleep 0.1; done
}

counters_answer() {
	perf stat -x, -e cycles true 2>&1 | grep -q '^[0-9]'
}

# Prints what takes the samples of a profile. Only cycles see code that runs with interrupts off.
profile_event() {
	if counters_answer; then echo cycles; else echo cpu-clock; fi
}

perf_start() {
	end_perf
	prepare perf record -q -a -g -F 499 -e "$(profile_event)"
	enable perf
}

perf_stop() {
	echo stop > $run/perf.control
	ended perf
	perf report -q --no-children --sort symbol -g none -i $run/perf.data 2> /dev/null > $run/report &
	perf report -q --no-children --sort symbol --percentage absolute -g folded,0,callee,function,percent \
		-S "$(IFS=,; echo "${slow[*]}")" -i $run/perf.data 2> /dev/null > $run/spinning
	wait $!
	perf report -q --no-children --sort comm -g folded,0,caller,function,count \
		-i $run/perf.data 2> /dev/null > $run/stacks
	echo "==> report <=="
	cat $run/report
	echo "==> spinning <=="
	cat $run/spinning
	echo "==> stacks <=="
	cat $run/stacks
}

# The kernel's own tracepoints lock:contention_* say nothing of spin locks where the
# processor is a hypervisor's, as in the lab, nor of those that wait for one other.
slow=(native_queued_spin_lock_slowpath __pv_queued_spin_lock_slowpath
	queued_read_lock_slowpath queued_write_lock_slowpath)

probes() { # on|off
	local i=0 name
	if [ -e $trace/events/fsbench ]; then
		grep -o 'fsbench/[^ ]*' $trace/kprobe_events | while read -r name; do
			echo "-:$name" >> $trace/kprobe_events
		done
	fi
	[ "$1" = on ] || return 0
	for name in "${slow[@]}"; do
		grep -q " $name\$" /proc/kallsyms || continue
		i=$((i + 1))
		# shellcheck disable=SC2016 # $arg1 is the kernel's
		echo "p:fsbench/begin$i $name"' lock=$arg1' >> $trace/kprobe_events
		echo "r:fsbench/end$i $name" >> $trace/kprobe_events
	done
}

locks_start() {
	end_perf
	probes on
	prepare locks record -q -a -e 'fsbench:begin*/call-graph=fp,max-stack=12/' -e 'fsbench:end*' \
		-e 'lock:contention_begin/call-graph=fp,max-stack=12/' -e lock:contention_end
	prepare syscalls stat -x, -a -e raw_syscalls:sys_enter -G system.slice/$unit.service
	enable locks
	enable syscalls
}

locks_stop() {
	echo disable > $run/syscalls.control
	echo stop > $run/locks.control
	systemctl kill -s INT fsbench-syscalls
	ended locks
	ended syscalls
	probes off
	echo "==> syscalls <=="
	cat $run/syscalls.data
	echo "==> locks <=="
	perf script -i $run/locks.data -F comm,tid,cpu,time,event,ip,sym,trace 2> /dev/null
}

# SIGCONT does nothing to a worker that systemd has ended, and woken for that, meanwhile.
halt() { # SECONDS
	local pid
	pid=$(< $run/worker)
	kill -STOP "$pid" || die "worker $pid cannot be stopped: it has ended"
	setsid bash -c "sleep $1; kill -CONT $pid" < /dev/null > /dev/null 2>&1 &
}

# Loads that another core of the socket, and of another one, answered with a line that it had changed: by the
# generation of the processor one of each (Intel's, by perf's tables), or none.
near_hitm=(mem_load_l3_hit_retired.xsnp_fwd mem_load_l3_hit_retired.xsnp_hitm mem_load_uops_l3_hit_retired.xsnp_hitm)
far_hitm=(mem_load_l3_miss_retired.remote_hitm mem_load_uops_l3_miss_retired.remote_hitm)

# Prints ",EVENT" with the first of the events that perf can count, if there is one.
countable() { # EVENT...
	local event
	for event; do
		if perf stat -x, -e "$event" true 2>&1 | grep -q '^[0-9]'; then
			printf ',%s' "$event"
			return
		fi
	done
}

# Reads the processor's own counters, of all cores.
counts_start() {
	end_perf
	prepare counts stat -x, -a \
		-e "cycles,instructions:k,instructions:u,cache-misses$(countable "${near_hitm[@]}")$(countable "${far_hitm[@]}")"
	enable counts
}

counts_stop() {
	systemctl -q is-active fsbench-counts || return 0
	# Interrupted, it prints what it has counted.
	systemctl kill -s INT fsbench-counts
	ended counts
	cat $run/counts.data
}

command=$1
shift
case $command in
facts) facts "$@" ;;
defaults) defaults ;;
start) start "$@" ;;
counters) counters ;;
halt) halt "$@" ;;
in-force) in_force ;;
stop)
	end_perf
	stop
	;;
perf-start) perf_start ;;
perf-stop) perf_stop ;;
perf-data) cat $run/perf.data ;;
locks-start) locks_start ;;
locks-stop) locks_stop ;;
symbols) cat /proc/kallsyms ;;
counts-probe) counters_answer ||
	die "its processor has no counters that perf stat could read: run on hardware, or in the lab" ;;
counts-start) counts_start ;;
counts-stop) counts_stop ;;
esac
