#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The lab: a server and a load generator on one machine. The server is a QEMU
# guest with Debian's kernel; the load generator is a network namespace that
# holds the other end of the guest's network interface.
#
#	lab.sh image		make the image, unless it is there
#	lab.sh up [--cpus N] [--kernel 6.1|6.12] [--accel tcg|kvm]
#				the same; then boot, until ssh answers. A debug kernel that
#				tests/debug/build.sh has built, such as 6.1-kasan, too
#	lab.sh accel		kvm if this machine says that it has KVM, else tcg (no boot is tried)
#	lab.sh down		stop the guest, delete the namespace
#	lab.sh ssh [COMMAND]	a shell on the server
#	lab.sh loadgen COMMAND...	the command, on the load generator
#	lab.sh status		exit status 0 if the lab is up
#	lab.sh count on [QUANTUM] | off | reset | dump FILE | status
#				counts what the server's cores do to each other (counting/)
#	lab.sh count names	what is at the addresses of the server's kernel that it reads
#	lab.sh clean		down, and delete the image and all else made
#
# Environment: LAB_ACCEL=tcg|kvm	skips the probe for KVM
#	LAB_BOOT_LIMIT=SECONDS	how long a boot may take (120), for busy machines
#	LAB_CPU=MODEL,FLAGS	QEMU's CPU for an emulated guest (max,-erms,-fsrm,-la57)
#	LAB_APPEND=WORDS	words of the kernel's command line (norandmaps)
#	LAB_EXTRA=servers	another lab, under .lab-servers, with more servers
#	LAB_EXTRA=bookworm|trixie	one for tests of our packages, of that Debian release
#	LAB_EXTRA=two-bookworm|two-trixie	two guests of that release, fsb-server and fsb-loadgen, on
#				a bridge in the namespace: the user bench may log in and use sudo. It is
#				for playbooks/inventory/two-guests.yml; up has 2 CPUs for each by default
#
# All files are under .lab in the checkout. Names that are global to the
# machine contain a hash of the checkout's path, so that two do not collide.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../../.." && pwd -P)
extra=${LAB_EXTRA:+-$LAB_EXTRA}
lab=$root/.lab$extra
install=$root/playbooks/roles/install/files
counting=$root/counting
ns=fsb-$(printf %s "$root" | sha1sum | cut -c1-8)$extra
# Unix sockets allow 107 characters, so these cannot be under $lab. The first is one for each guest.
control=/run/$ns.ssh
counter=/run/$ns.count

server4=10.66.0.1 server6=fd66::1
loadgen4=10.66.0.2 loadgen6=fd66::2
# With two guests, the namespace holds the bridge between them, and this machine's end.
bridge4=10.66.0.254
guests=(server)
declare -A taps=([server]=tap0 [loadgen]=tap1)
user=root

memory=3072
# Seconds that a boot may take, and attempts: one emulated boot of fifteen hung (docs/lab.md).
boot_limit=${LAB_BOOT_LIMIT:-120}
boot_attempts=3

cpus=8
# Debian 12 has both kernels.
suite=bookworm
kernels=(6.1 6.12)
# The image of a debug kernel, which has everything built in.
debug_kernel() { # KERNEL
	echo "$lab/debug/$1/arch/x86/boot/bzImage"
}
packages=(
	# The kernels under test, and what builds the module for them.
	linux-image-amd64 linux-headers-amd64 linux-image-6.12-amd64 linux-headers-6.12-amd64
	gcc make libc6-dev kmod
	# These make a machine that Ansible can drive.
	systemd systemd-sysv udev dbus openssh-server python3 iproute2 procps
	# These are for measuring, network settings and tests.
	linux-perf ethtool nftables libcmocka0 libpython3.11-testsuite
	# A container engine's runtime.
	crun
)
# The groups of hosts whose servers or load tools an image has: their packages come from
# experiments/packages.py when it is made (image.sh).
listed=(server)
# PACKAGE FILE: the default seccomp profile of container engines. Its package depends on their programs
# for networks, so it is not installed.
alone=(golang-github-containers-common usr/share/containers/seccomp.json)
# For the kernel's command line: services that the server does not start by itself.
masks=
case ${LAB_EXTRA:-} in
servers)
	for unit in apache2 lighttpd memcached php8.2-fpm postgresql; do
		masks+=" systemd.mask=$unit.service"
	done
	packages+=(apache2 lighttpd memcached gunicorn python3-gevent uvicorn uwsgi-core
		uwsgi-plugin-python3 nodejs mptcpize valgrind
		php-fpm php-cgi postgresql)
	;;
bookworm | trixie)
	# A Debian release with its own kernel, and with what our packages depend on: the guest
	# has no network to install it from.
	suite=$LAB_EXTRA
	alone=()
	listed=()
	kernels=(6.1)
	[ "$suite" = bookworm ] || kernels=(6.12)
	mapfile -t packages < <(make -s -C "$root" sweep-depends | sed 's/, */\n/g')
	packages+=(linux-image-amd64 linux-headers-amd64 dkms gcc make libc6-dev kmod
		systemd systemd-sysv udev dbus openssh-server python3 iproute2 procps nginx-light)
	;;
two-bookworm | two-trixie)
	guests=(server loadgen)
	listed=(server loadgen)
	user=bench memory=2048 cpus=2
	alone=()
	suite=${LAB_EXTRA#two-}
	kernels=(6.1)
	[ "$suite" = bookworm ] || kernels=(6.12)
	# What the role provision wants on either host besides: the guests have no network.
	mapfile -t packages < <(/usr/bin/python3 -c 'import sys, yaml
print(*sum(yaml.safe_load(sys.stdin)["provision_packages"].values(), []), sep="\n")' \
		< "$root/playbooks/roles/provision/defaults/main.yml" | sort -u)
	packages+=(linux-image-amd64 linux-headers-amd64 dkms openssl sudo nftables
		systemd systemd-sysv udev dbus openssh-server)
	;;
'') ;;
*)
	echo "lab: LAB_EXTRA=$LAB_EXTRA: give servers, bookworm, trixie, two-bookworm or two-trixie" >&2
	exit 1
	;;
esac

die() { echo "lab: $*" >&2; exit 1; }
say() { printf 'lab: %3d s: %s\n' "$SECONDS" "$*"; }

# shellcheck source=playbooks/roles/lab/files/image.sh
. "${BASH_SOURCE[0]%/*}/image.sh"

# Builds the plugin, which every emulated boot loads: it costs nothing until it counts.
load_counting() { # CPUS
	[ "$1" -le 62 ] || return
	make -s -C "$counting" counting.so > "$lab/counting.log" 2>&1 && return
	say "counting is not to be had: counting.so does not build: see .lab/counting.log"
	return 1
}

# The folder of a guest's own files: disk of what it builds, console, pid.
place() { # GUEST
	if [ "$1" = server ]; then echo "$lab"; else echo "$lab/$1"; fi
}

boot() { # GUEST ACCEL CPUS KERNEL LOG, more QEMU options; in the background, pid to .lab/pid
	local guest=$1 accel=$2 cpus=$3 kernel=$4 log=$5 append=$masks
	local cpu=${LAB_CPU:-max,-erms,-fsrm,-la57} words=${LAB_APPEND-norandmaps}
	local files=(-kernel "$lab/vmlinuz-$kernel" -initrd "$lab/initrd.img-$kernel")
	local ip4=${guest}4 ip6=${guest}6 place
	place=$(place "$guest")
	shift 5
	if [ -f "$(debug_kernel "$kernel")" ]; then
		files=(-kernel "$(debug_kernel "$kernel")")
		# In a slow emulator, ACPI's interpreter would take a loop for an endless one,
		# and leave PCI without interrupts.
		append+=" pci=noacpi"
	fi
	# Emulated, REP MOVSB takes a step for each byte; the kernel, told that this
	# CPU has fast ones (ERMS), clears and copies with them. And each miss of its TLB
	# walks page tables of four levels instead of five (LA57).
	[ "$accel" = kvm ] && cpu=host
	if [ "$accel" = tcg ]; then
		accel=tcg,thread=multi
		# Counting works with one guest only.
		[ ${#guests[@]} = 1 ] && load_counting "$cpus" &&
			set -- -plugin "$counting/counting.so,socket=$counter" "$@"
	fi
	[ ${#guests[@]} = 1 ] || append+=" fsb.guest=$guest,${!ip4},${!ip6}"
	# With loglevel=5 a kernel that dies tells where; quiet would keep systemd's Welcome
	# away, too, by which choose_accel() knows that it has booted.
	# Without nohpet an emulated guest spends a fifth of its time reading the HPET. Without
	# norandmaps QEMU translates code again for each program that starts.
	setsid ip netns exec "$ns" qemu-system-x86_64 \
		-accel "$accel" -cpu "$cpu" -smp "$cpus" -m "$memory" \
		-nographic -nodefaults -no-reboot -serial "file:$log" \
		"${files[@]}" \
		-append "root=/dev/vda rw console=ttyS0 loglevel=5 panic=1 net.ifnames=0 clocksource=tsc tsc=reliable nohpet $words$append" \
		-drive "file=$lab/disk,if=virtio,format=raw,snapshot=on" \
		-device virtio-rng-pci "$@" \
		< /dev/null > "$place/qemu.log" 2>&1 9>&- &
	echo $! > "$place/pid"
}

running() { # GUEST
	local file
	file=$(place "$1")/pid
	[ -f "$file" ] && [ -d "/proc/$(cat "$file")" ] &&
		tr '\0' ' ' < "/proc/$(cat "$file")/cmdline" | grep -q "$lab/disk"
}

all_running() {
	local guest
	for guest in "${guests[@]}"; do
		running "$guest" || return
	done
}

all_answer() {
	local guest
	for guest in "${guests[@]}"; do
		running "$guest" && ssh -F "$lab/ssh_config" "fsb-$guest" true 2> /dev/null || return
	done
}

stop_guest() { # GUEST
	local place pid
	place=$(place "$1")
	if running "$1"; then
		pid=$(cat "$place/pid")
		kill "$pid" 2> /dev/null || true
		for _ in $(seq 100); do
			[ -d "/proc/$pid" ] || break
			sleep 0.1
		done
		[ -d "/proc/$pid" ] && kill -9 "$pid"
		# A tap is busy until its process is gone.
		while [ -d "/proc/$pid" ]; do sleep 0.1; done
	fi
	rm -f "$place/pid"
	[ "$1" != server ] || rm -f "$lab/booted" "$lab/accel" "$counter"
}

down() {
	local guest
	for guest in "${guests[@]}"; do
		[ -S "$control-$guest" ] && ssh -F "$lab/ssh_config" -O exit "fsb-$guest" 2> /dev/null
		rm -f "$control-$guest"
		stop_guest "$guest"
	done
	if ip netns list | grep -qw "^$ns"; then
		# The backend of a sweep that was killed.
		ip netns pids "$ns" | xargs -r kill
		ip netns delete "$ns"
	fi
}

make_network() { # CPUS
	local queues=multi_queue guest tap
	[ "$1" = 1 ] && queues=
	ip netns add "$ns"
	ip -n "$ns" link set lo up
	for guest in "${guests[@]}"; do
		# shellcheck disable=SC2086 # empty for one CPU
		ip netns exec "$ns" ip tuntap add "${taps[$guest]}" mode tap $queues
		ip -n "$ns" link set "${taps[$guest]}" up
	done
	if [ ${#guests[@]} = 1 ]; then
		tap=${taps[server]}
		ip -n "$ns" address add $loadgen4/24 dev "$tap"
		ip -n "$ns" address add $loadgen6/64 dev "$tap" nodad
		return
	fi
	ip -n "$ns" link add br0 type bridge ||
		die "there is no bridge to join two guests: load it with modprobe bridge"
	for guest in "${guests[@]}"; do
		ip -n "$ns" link set "${taps[$guest]}" master br0
	done
	ip -n "$ns" address add $bridge4/24 dev br0
	ip -n "$ns" link set br0 up
}

likely_accel() {
	if [ -n "${LAB_ACCEL:-}" ]; then
		echo "$LAB_ACCEL"
	elif grep -qwE 'vmx|svm' /proc/cpuinfo && [ -w /dev/kvm ]; then
		echo kvm
	else
		echo tcg
	fi
}

# /dev/kvm may exist and answer, and still not boot a stock kernel.
choose_accel() { # CPUS KERNEL
	if [ -n "$wanted_accel${LAB_ACCEL:-}" ] || [ "$(likely_accel)" = tcg ]; then
		echo "${wanted_accel:-$(likely_accel)}"
		return
	fi
	boot server kvm "$1" "$2" "$lab/probe.log"
	for _ in $(seq 20); do
		sleep 1
		if grep -q 'Welcome to' "$lab/probe.log" 2> /dev/null; then
			stop_guest server
			echo kvm
			return
		fi
	done
	stop_guest server
	echo tcg
}

write_ssh_config() {
	local guest ip4
	for guest in "${guests[@]}"; do
		ip4=${guest}4
		cat <<-END
			Host fsb-$guest
				HostName ${!ip4}
				User $user
				IdentityFile $lab/key
				IdentitiesOnly yes
				ProxyCommand ip netns exec $ns nc %h %p
				# A new guest has new host keys; nobody else is in the namespace.
				StrictHostKeyChecking no
				UserKnownHostsFile /dev/null
				LogLevel ERROR
				ConnectTimeout 5
				# These notice a guest that has died.
				ServerAliveInterval 10
				ServerAliveCountMax 3
				ControlMaster auto
				ControlPath $control-$guest
				ControlPersist 3600
		END
	done > "$lab/ssh_config"
}

lock() {
	mkdir -p "$lab"
	exec 9> "$lab/lock"
	flock -n 9 || die "another lab.sh is at work in this checkout: wait for it"
}

# Waits until ssh answers. False if the guest ends before, or takes too long.
answers() { # GUEST
	# Close the descriptor of the lock, which ssh's master process would keep.
	until ssh -F "$lab/ssh_config" "fsb-$1" true 2> /dev/null 9>&-; do
		running "$1" && [ "$SECONDS" -le "$boot_limit" ] || return 1
		sleep 0.2
	done
}

start_guest() { # GUEST ACCEL CPUS KERNEL
	local guest=$1 cpus=$3 tap=${taps[$1]} queues=,queues=$3 place
	place=$(place "$guest")
	[ "$cpus" = 1 ] && queues=
	SECONDS=0
	say "booting: ${guests[1]:+$guest, }$cpus CPUs, kernel $4, $2"
	boot "$@" "$place/serial.log" \
		-netdev "tap,id=n0,ifname=$tap,script=no,downscript=no$queues" \
		-drive "file=$place/build,if=virtio,format=raw" \
		-device "virtio-net-pci,netdev=n0,mq=on,vectors=$((2 * cpus + 2)),mac=52:54:00:66:00:0$((${tap#tap} + 1))"
	[ "$guest" = server ] || return 0
	echo "$cpus CPUs, kernel $4" > "$lab/booted"
	echo "$2" > "$lab/accel"
}

up() { # CPUS KERNEL
	local cpus=$1 kernel=$2 accel attempt guest place what="$1 CPUs, kernel $2"

	for tool in qemu-system-x86_64 nc ssh ip; do
		command -v $tool > /dev/null || die "$tool is missing: run make packages-sweep"
	done
	[ -c /dev/net/tun ] || die "/dev/net/tun is missing: load it with modprobe tun"
	lock

	if all_answer; then
		[ "$(cat "$lab/booted")" = "$what" ] ||
			die "the lab is up with $(cat "$lab/booted"), not with $what: stop it with make lab-down"
		[ "$(cat "$lab/accel")" = "${wanted_accel:-$(cat "$lab/accel")}" ] ||
			die "the lab is up under $(cat "$lab/accel"), not under $wanted_accel: stop it with make lab-down"
		say "already up with $what"
		return
	fi
	if [ -f "$lab/pid" ] || ip netns list | grep -qw "^$ns"; then
		say "cleaning up after a run that did not end well"
		down
	fi
	image
	write_ssh_config
	make_network "$cpus"
	trap 'down; exit 130' INT TERM

	accel=$(choose_accel "$cpus" "$kernel")
	for guest in "${guests[@]}"; do
		start_guest "$guest" "$accel" "$cpus" "$kernel"
	done
	for guest in "${guests[@]}"; do
		place=$(place "$guest")
		for attempt in $(seq $boot_attempts); do
			answers "$guest" && break
			tail -n 5 "$place/serial.log" "$place/qemu.log" >&2 || true
			[ "$attempt" -lt $boot_attempts ] || {
				down
				die "the guest did not come up: see ${place#"$root/"}/serial.log and qemu.log"
			}
			say "the guest did not come up: once more"
			stop_guest "$guest"
			start_guest "$guest" "$accel" "$cpus" "$kernel"
		done
	done
	say "up: ssh answers"
}

count() { # COMMAND...
	local answer
	[ ${#guests[@]} = 1 ] || die "of two guests none is counted: count in the lab that has one"
	running server || die "the lab is not up: start it with make lab-up"
	if [ "${1:-}" = names ]; then
		"$counting/names.sh" "$lab/ssh_config" "$lab/counting.log"
		return
	fi
	[ "$(cat "$lab/accel")" = tcg ] ||
		die "only an emulated server is counted: boot one with lab.sh up --accel tcg"
	[ -S "$counter" ] || die "the server runs without counting: see .lab/counting.log, and boot it again"
	# The emulator, which has another working folder, writes the file.
	[ "${1:-}" = dump ] && [ $# = 2 ] && set -- dump "$(realpath -m "$2")"
	answer=$(echo "$*" | nc -N -U -w 120 "$counter") || die "counting does not answer"
	case $answer in
	ok*) [ "$answer" = ok ] || echo "${answer#ok }" ;;
	*) die "count: ${answer#error: }" ;;
	esac
}

kernel=${kernels[0]}
wanted_accel=
command=${1:-}
shift || true
while [ "$command" = up ] && [ $# != 0 ]; do
	case $1 in
	--cpus) cpus=${2:-} ;;
	--kernel) kernel=${2:-} ;;
	--accel) wanted_accel=${2:-} ;;
	*) die "up $1: the options are --cpus N, --kernel VERSION and --accel tcg or kvm" ;;
	esac
	shift 2 || break
done
[[ $cpus =~ ^[1-9][0-9]?$ ]] || die "--cpus $cpus: give a number from 1 to 99"
[[ $wanted_accel =~ ^(|tcg|kvm)$ ]] || die "--accel $wanted_accel: give tcg or kvm"
[[ " ${kernels[*]} " = *" $kernel "* ]] || [ -f "$(debug_kernel "$kernel")" ] ||
	die "--kernel $kernel: there is none: give one of ${kernels[*]}, or build one with tests/debug/build.sh"
case $command in
image | up | down | ssh | loadgen | status | count | clean)
	[ "$(id -u)" = 0 ] || die "the lab needs root (namespaces, taps): use sudo"
	;;
esac
case $command in
image) lock && image ;;
up) up "$cpus" "$kernel" ;;
down) down ;;
ssh)
	all_running || die "the lab is not up: start it with make lab-up"
	exec ssh -F "$lab/ssh_config" fsb-server "$@"
	;;
loadgen)
	all_running || die "the lab is not up: start it with make lab-up"
	[ ${#guests[@]} = 1 ] || exec ssh -F "$lab/ssh_config" fsb-loadgen "$@"
	exec ip netns exec "$ns" "$@"
	;;
status) all_answer ;;
accel) likely_accel ;;
count) count "$@" ;;
clean)
	down
	nothing_mounted
	rm -rf "$lab"
	;;
*) die "usage: lab.sh image | up [--cpus N] [--kernel VERSION] [--accel tcg|kvm] | accel | down | ssh [COMMAND] | loadgen COMMAND... | status | count … | clean" ;;
esac
