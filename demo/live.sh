#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# live.sh	make demo: the demo server in the lab, under the same load first without
#		the library and then with it, with `fsocketctl watch` beside both; at the
#		end prints the difference between their counters.
#
# CPUS=4 is the number of the server's cores, unless the lab is up already. Rates are not
# compared: on emulated cores they say little (docs/lab.md), counts do not depend on time.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
lab=$root/playbooks/roles/lab/files/lab.sh
log=$root/.lab/demo.log
folder=$root/.lab/demo.counts
server=10.66.0.1
# Seconds of the load that is watched; requests that are counted.
seconds=12 requests=1000

say() { printf '\n--- %s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }
guest() { timeout 60 "$lab" ssh "$@"; }
load() { "$lab" loadgen ab -q -r -c 100 "$@" "http://$server/" > /dev/null 2>> "$log"; }

lab_up() {
	echo "This takes about three minutes: the same load on the demo server, without and with Fastsocket."
	if "$lab" status 2> /dev/null; then
		say "The lab is up already, and stays up."
	else
		say "Booting the lab, an emulated server with ${CPUS:-4} cores (the first time its image is made, some minutes more)"
		booted=yes
		"$lab" up --cpus "${CPUS:-4}"
	fi
	say "Installing the module, the library and the demo server (minutes where kmod/ is newer than the image)"
	(cd "$root/playbooks" && ansible-playbook provision.yml install.yml tune.yml) > "$log" 2>&1 ||
		die "the installation failed: see .lab/demo.log; then make lab-down, and make demo again"
}

finish() {
	if [ -n "$booted" ]; then
		say "Stopping the lab"
		"$lab" down
	elif "$lab" status 2> /dev/null; then
		guest "systemctl stop fsbench-demo 2> /dev/null" || true
	fi
}

start() { # OPTION-OF-SYSTEMD-RUN...
	guest "systemctl stop fsbench-demo 2> /dev/null
		systemd-run -q --collect --unit=fsbench-demo -p LimitNOFILE=65536 \
			-p StandardOutput=truncate:/run/fsbench-demo.out $* fsbench-server &&
		until grep -q ^ready /run/fsbench-demo.out; do sleep 0.1; done"
}

# Prints "name value": the sums over all CPUs of /proc/net/fastsocket, and the connections.
counters() {
	guest bash -s <<-'COMMANDS'
		awk 'NR == 1 { n = split($0, name) } NR > 1 { for (i = 2; i <= n; i++) sum[i] += $i }
			END { for (i = 2; i <= n; i++) print name[i], sum[i] }' /proc/net/fastsocket
		awk '$1 == "Tcp:" { n++; if (n == 2) print "connections", $7 }' /proc/net/snmp
	COMMANDS
}

declare -A seen
watched() { # SETUP
	local name before after
	declare -A was
	load -n 400
	while read -r name before; do was[$name]=$before; done < <(counters)
	load -t "$seconds" -n 1000000 &
	# The load continues until watch has ended.
	guest "timeout $((seconds - 1)) fsocketctl watch 5" || true
	wait $! || die "the load generator failed: see .lab/demo.log"
	while read -r name after; do seen[$1.$name]=$((after - ${was[$name]:-0})); done < <(counters)
}

total() { # FIGURE
	awk -F, -v name="$1" '$1 == name { print $2 }' "$folder/totals.csv"
}

counted() { # SETUP
	[ "$(cat "$root/.lab/accel")" = tcg ] || return 0
	say "Counting what the cores do to each other, in $requests more requests"
	"$root/counting/count.sh" "$requests" "$folder" \
		ab -q -r -c 100 -n "$requests" "http://$server/" >> "$log" 2>&1 ||
		{ echo "demo: they were not counted: see .lab/demo.log" >&2; return 0; }
	seen[$1.transfers]=$(total line_transfers_per_req)
	seen[$1.instructions]=$(total kernel_instructions_per_req)
}

per() { # VALUE OF [FACTOR]
	awk -v v="$1" -v n="$2" -v f="${3:-1}" 'BEGIN { if (n > 0) printf "%.1f", f * v / n; else printf "–" }'
}

row() { # TEXT WITHOUT WITH
	printf '%-52s %10s %10s\n' "$@"
}

summary() {
	local with=${seen[with.connections]} without=${seen[without.connections]}
	say "What the counters say"
	row "" without with
	row "connections while it was watched" "$without" "$with"
	row "  accepted from the queue of the worker's own core, %" \
		"$(per "${seen[without.accept_local]}" "$without" 100)" "$(per "${seen[with.accept_local]}" "$with" 100)"
	if [ -n "${seen[with.transfers]:-}" ] && [ -n "${seen[without.transfers]:-}" ]; then
		row "cache lines moved between cores per connection" \
			"$(per "${seen[without.transfers]}" 1)" "$(per "${seen[with.transfers]}" 1)"
		row "kernel instructions per connection" \
			"${seen[without.instructions]%.*}" "${seen[with.instructions]%.*}"
	fi
	cat <<-END

		Each setup ran once, so a difference of a few per cent means nothing. Next:
		  make sweep EXPERIMENT=counts    repeats it, for other servers too, with a report
		  fsocketctl run nginx            a server of your own (README.md, "Use it")
	END
}

[ "$(id -u)" = 0 ] || die "the lab needs root: run sudo make demo"
mkdir -p "$root/.lab"
booted=
trap finish EXIT
lab_up

say "WITHOUT: the demo server alone. All its workers wait for one queue of connections."
echo "\$ fsbench-server &   # and ab -c 100 for $seconds seconds from the other host"
start
echo "\$ fsocketctl watch 5   # per core and second: no column, or 0, as Fastsocket is not used"
watched without
counted without

say "WITH: the same program, preloaded. Each worker gets a queue of its own, on its own core."
echo "\$ LD_PRELOAD=libfsocket.so fsbench-server &   # and the same load"
start -E LD_PRELOAD=/usr/local/lib/libfsocket.so -E FSOCKET_REQUIRED=1
guest fsocketctl listeners
echo "\$ fsocketctl watch 5"
watched with
counted with
summary
