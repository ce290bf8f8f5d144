# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# The image of the lab's guests: Debian's packages, the settings of a machine that tests drive,
# and what our sources build there. lab.sh reads this file, and has set the variables.
# shellcheck disable=SC2154

# Adds the packages of servers and load tools to all others, and sets services, lines of
# "PACKAGE SERVICE".
ask_suite() {
	local names lister=$root/experiments/packages.py
	services=$(/usr/bin/python3 "$lister" services) || die "$lister does not say which services there are"
	[ ${#listed[@]} != 0 ] || return 0
	names=$(/usr/bin/python3 "$lister" "${listed[@]}") || die "$lister does not say which packages there are"
	mapfile -t -O "${#packages[@]}" packages <<< "$names"
}

# Prints everything that the image depends on.
recipe() {
	printf '%s\n' "$suite" "${packages[@]}" "${alone[@]}" "$services"
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
	for unit in $(awk '{ print $2 ".service" }' <<< "$services") nftables.service apt-daily.timer apt-daily-upgrade.timer \
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

# Older versions mounted /dev and others of this machine in the tree of an image, for good if killed.
nothing_mounted() {
	! findmnt -rno TARGET | sed 's/\\x20/ /g' | grep -qF "$lab/" ||
		die "files of this machine are mounted in $lab: umount them (findmnt lists them), then run the same command again"
}

image() {
	[ -f "$lab/key" ] || ssh-keygen -q -t ed25519 -N '' -C fastsocket-lab -f "$lab/key"
	ask_suite
	have_image || make_image
	# The guest's builds outlive it; each disk begins with what the image's own compiler has built.
	if [ ${#guests[@]} = 2 ] && ! [ "$lab/loadgen/build" -nt "$lab/disk" ]; then
		mkdir -p "$lab/loadgen"
		cp --sparse=always "$lab/build" "$lab/loadgen/build"
	fi
}
