#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The lab: a server and a load generator on one machine. The server is a QEMU
# guest with Debian's kernel; the load generator is a network namespace that
# holds the other end of the guest's network interface.
#
#	lab.sh image		make the image, unless it is there
#	lab.sh up [--cpus N] [--kernel 6.1|6.12]
#				the same; then boot, until ssh answers. A debug kernel that
#				tests/debug/build.sh has built, such as 6.1-kasan, too
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
	# These are real servers.
	nginx-light haproxy redis-server
	# A container engine's runtime.
	crun
)
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
	kernels=(6.1)
	[ "$suite" = bookworm ] || kernels=(6.12)
	mapfile -t packages < <(make -s -C "$root" sweep-depends | sed 's/, */\n/g')
	packages+=(linux-image-amd64 linux-headers-amd64 dkms gcc make libc6-dev kmod
		systemd systemd-sysv udev dbus openssh-server python3 iproute2 procps nginx-light)
	;;
two-bookworm | two-trixie)
	guests=(server loadgen)
	user=bench memory=2048 cpus=2
	alone=()
	suite=${LAB_EXTRA#two-}
	kernels=(6.1)
	[ "$suite" = bookworm ] || kernels=(6.12)
	# The packages that the role provision wants on either host: the guests have no network.
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

# Prints everything that the image depends on.
recipe() {
	printf '%s\n' "$suite" "${packages[@]}" "${alone[@]}"
	declare -f make_image customize
	# Some labs have a function of their own.
	declare -f lab_customize || true
}

customize() { # TREE
	local tree=$1 unit
	echo fsb-server > "$tree/etc/hostname"
	echo "127.0.0.1 localhost fsb-server" > "$tree/etc/hosts"
	printf '%s\n' '/dev/vda / ext4 noatime 0 1' \
		'/dev/vdb /usr/local/src ext4 noatime,nofail 0 2' > "$tree/etc/fstab"
	install -d -m 700 "$tree/root/.ssh"
	cp "$lab/key.pub" "$tree/root/.ssh/authorized_keys"
	printf '%s\n' 'UseDNS no' 'UsePAM no' > "$tree/etc/ssh/sshd_config.d/lab.conf"
	# Servers under test start when a test says so; nothing else wakes up.
	for unit in nginx.service haproxy.service redis-server.service nftables.service apt-daily.timer apt-daily-upgrade.timer \
		e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
		systemd-timesyncd.service getty@.service serial-getty@.service \
		systemd-networkd.service networking.service systemd-logind.service \
		systemd-update-utmp.service systemd-pstore.service modprobe@loop.service \
		modprobe@fuse.service modprobe@drm.service modprobe@dm_mod.service \
		modprobe@efi_pstore.service modprobe@configfs.service; do
		ln -sf /dev/null "$tree/etc/systemd/system/$unit"
	done
	# Saves seconds of an emulated boot: sshd would check its settings first.
	install -d "$tree/etc/systemd/system/ssh.service.d"
	printf '%s\n' '[Service]' 'ExecStartPre=' > "$tree/etc/systemd/system/ssh.service.d/lab.conf"
	cat > "$tree/etc/systemd/system/lab-network.service" <<-END
		[Unit]
		DefaultDependencies=no
		After=local-fs.target
		Before=ssh.service
		[Service]
		Type=oneshot
		RemainAfterExit=yes
		ExecStart=/bin/sh -c 'until ip link set eth0 up 2>/dev/null; do sleep 0.1; done; ip address add $server4/24 dev eth0; ip address add $server6/64 dev eth0 nodad'
		[Install]
		WantedBy=multi-user.target
	END
	ln -sf /etc/systemd/system/lab-network.service \
		"$tree/etc/systemd/system/multi-user.target.wants/lab-network.service"
}

# Two guests have the same image; what differs is on their kernel's command line.
if [ ${#guests[@]} = 2 ]; then
	eval "lab_$(declare -f customize)"
	customize() { # TREE
		local tree=$1
		lab_customize "$tree"
		echo "127.0.0.1 localhost fsb-server fsb-loadgen" > "$tree/etc/hosts"
		# root has no key, and no password is valid.
		chroot "$tree" useradd -m -s /bin/bash -p '*' bench
		mv "$tree/root/.ssh" "$tree/home/bench/"
		chroot "$tree" chown -R bench:bench /home/bench/.ssh
		install -m 440 /dev/stdin "$tree/etc/sudoers.d/bench" <<< 'bench ALL=(ALL) NOPASSWD: ALL'
		install -m 755 /dev/stdin "$tree/usr/local/sbin/lab-network" <<-'END'
			#!/bin/sh
			# The kernel's command line has fsb.guest=NAME,IPV4,IPV6.
			own=$(sed 's/.*fsb\.guest=\([^ ]*\).*/\1/' /proc/cmdline)
			echo "fsb-${own%%,*}" > /proc/sys/kernel/hostname
			own=${own#*,}
			until ip link set eth0 up 2> /dev/null; do sleep 0.1; done
			ip address add "${own%,*}/24" dev eth0
			ip address add "${own#*,}/64" dev eth0 nodad
		END
		sed -i 's|^ExecStart=.*|ExecStart=/usr/local/sbin/lab-network|' \
			"$tree/etc/systemd/system/lab-network.service"
		# One of the two releases has the module by DKMS, built here at this machine's speed, too.
		# shellcheck disable=SC2016 # the inner shell's to expand
		[ "$suite" = bookworm ] ||
			unshare --mount sh -ec 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"
				chroot "$1" sh -s dkms image $(ls "$1/lib/modules") < "$2"' \
				sh "$tree" "$install/install.sh" >> "$lab/image.log" 2>&1 ||
			say "image: DKMS does not build the module here: see .lab$extra/image.log; the server will try"
	}
fi

make_image() {
	local tree=$lab/tree.new sources exclude=() dir kernel

	# Drivers of devices that no virtual machine has: three quarters of the kernel package.
	for dir in drivers/{gpu,media,infiniband,staging,iio,usb,hid,scsi,mmc,isdn,mtd,input,ata,md} \
		drivers/{platform,edac,hwmon,i2c,thunderbolt,bluetooth,firewire,leds,power,target} \
		drivers/net/{wireless,ethernet,usb,can,phy,wwan,dsa,fddi,hamradio} \
		sound net/{bluetooth,mac80211,wireless,ceph} \
		fs/{xfs,btrfs,ocfs2,gfs2,ceph,nfs,nfsd,f2fs,jfs,reiserfs,cifs,smb,udf,ntfs3,afs}; do
		exclude+=("--dpkgopt=path-exclude=/lib/modules/*/kernel/$dir/*")
	done

	command -v mmdebstrap > /dev/null || die "mmdebstrap is missing: run make packages-sweep"
	nothing_mounted
	rm -rf "$tree" "$lab/disk.new" "$lab/image"
	mkdir -p "$tree"
	say "image: installing Debian $suite with ${#packages[@]} packages and what they need (a few minutes)"
	# Use this machine's package sources, if they are of that suite.
	# shellcheck disable=SC2038 # the names in these folders are apt's
	mapfile -t sources < <(find /etc/apt/sources.list /etc/apt/sources.list.d \
		\( -name '*.list' -o -name '*.sources' \) -type f -size +0 2> /dev/null |
		xargs -r grep -lE "^[^#]*\b$suite\b")
	# The build is done once at this machine's speed, for the sources of this moment: an
	# emulated compiler takes minutes. The server builds again what has changed since.
	# What is mounted in the tree meanwhile is gone with the process, also if that is killed.
	# shellcheck disable=SC2016 # the hooks' $1 is the tree, and theirs to expand
	unshare --mount mmdebstrap --quiet --variant=minbase \
		--include="$(IFS=,; echo "${packages[*]}")" \
		--dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		"${exclude[@]}" \
		--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
		--essential-hook='echo MODULES=list > "$1/etc/initramfs-tools/conf.d/lab"' \
		--essential-hook='printf "%s\n" virtio_pci virtio_blk virtio_net ext4 crc32c_generic > "$1/etc/initramfs-tools/modules"' \
		--customize-hook="'$install/sources.sh' kmod library demo |
			tar -C \"\$1/usr/local/src\" --one-top-level=fsbench -x --no-same-owner" \
		--customize-hook="chroot \"\$1\" sh -c 'sh -s image \$(ls /lib/modules)' \
			< '$install/install.sh' || echo 'lab: the sources do not build here: see .lab/image.log; the server will try'" \
		--customize-hook="[ ${#alone[@]} = 0 ] || { cd \"\$1/var/cache/apt/archives\" &&
			APT_CONFIG=\$MMDEBSTRAP_APT_CONFIG apt-get -qq download ${alone[0]:-} &&
			dpkg-deb --fsys-tarfile ${alone[0]:-}_*.deb | tar -C \"\$1\" -x ./${alone[1]:-}; }" \
		"$suite" "$tree" "${sources[@]}" 2> "$lab/image.log" ||
		{ tail -5 "$lab/image.log" >&2; die "the image was not made: see .lab/image.log; then run the same command again"; }
	say "image: making the disk"
	customize "$tree"
	truncate -s 6G "$lab/disk.new"
	# The guest's builds outlive it.
	rm -f "$lab/build"
	truncate -s 512M "$lab/build"
	mke2fs -q -t ext4 -d "$tree/usr/local/src" "$lab/build"
	rm -rf "$tree/usr/local/src/fsbench"
	mke2fs -q -t ext4 -d "$tree" "$lab/disk.new" ||
		die "the disk image was not made: is $(df -h --output=avail "$lab" | tail -1) enough? it needs 2 GB"
	for kernel in "${kernels[@]}"; do
		cp "$tree/boot/vmlinuz-$kernel."* "$lab/vmlinuz-$kernel"
		cp "$tree/boot/initrd.img-$kernel."* "$lab/initrd.img-$kernel"
	done
	rm -rf "$tree"
	mv "$lab/disk.new" "$lab/disk"
	recipe | sha1sum > "$lab/image"
	say "image: ready"
}

have_image() {
	[ -f "$lab/image" ] && [ "$(cat "$lab/image")" = "$(recipe | sha1sum)" ]
}

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
	local guest=$1 accel=$2 cpus=$3 kernel=$4 log=$5 cpu=max,-erms,-fsrm,-la57 append=$masks
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
		-append "root=/dev/vda rw console=ttyS0 loglevel=5 panic=1 net.ifnames=0 clocksource=tsc tsc=reliable nohpet norandmaps$append" \
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

# /dev/kvm may exist and answer, and still not boot a stock kernel.
choose_accel() { # CPUS KERNEL
	if [ -n "${LAB_ACCEL:-}" ]; then
		echo "$LAB_ACCEL"
		return
	fi
	if ! grep -qwE 'vmx|svm' /proc/cpuinfo || ! [ -w /dev/kvm ]; then
		echo tcg
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

# Older versions mounted /dev and others of this machine in the tree of an image, for good if killed.
nothing_mounted() {
	! findmnt -rno TARGET | sed 's/\\x20/ /g' | grep -qF "$lab/" ||
		die "files of this machine are mounted in $lab: umount them (findmnt lists them), then run the same command again"
}

image() {
	[ -f "$lab/key" ] || ssh-keygen -q -t ed25519 -N '' -C fastsocket-lab -f "$lab/key"
	have_image || make_image
	# The guest's builds outlive it; each disk begins with what the image's own compiler has built.
	if [ ${#guests[@]} = 2 ] && ! [ "$lab/loadgen/build" -nt "$lab/disk" ]; then
		mkdir -p "$lab/loadgen"
		cp --sparse=always "$lab/build" "$lab/loadgen/build"
	fi
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
		die "only an emulated server is counted: boot one with LAB_ACCEL=tcg"
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
command=${1:-}
shift || true
while [ "$command" = up ] && [ $# != 0 ]; do
	case $1 in
	--cpus) cpus=${2:-} ;;
	--kernel) kernel=${2:-} ;;
	*) die "up $1: the options are --cpus N and --kernel VERSION" ;;
	esac
	shift 2 || break
done
[[ $cpus =~ ^[1-9][0-9]?$ ]] || die "--cpus $cpus: give a number from 1 to 99"
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
count) count "$@" ;;
clean)
	down
	nothing_mounted
	rm -rf "$lab"
	;;
*) die "usage: lab.sh image | up [--cpus N] [--kernel VERSION] | down | ssh [COMMAND] | loadgen COMMAND... | status | count … | clean" ;;
esac
