#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# install.sh			builds and installs what was copied to /usr/local/src/fsbench,
#				as root, and loads the module; prints "changed: ..." for each
#				file that is new
# install.sh image RELEASE...	only builds, and installs the module, for these kernels
# install.sh dkms [image RELEASE...]	the same; the module by DKMS
set -eu

src=/usr/local/src/fsbench
log=/run/fsbench-build.log
die() { echo "$(hostname): $*" >&2; exit 1; }

build() { # PART VARIABLE=VALUE...
	part=$1
	shift
	make -s -C "$src/$part" -j"$(nproc)" "$@" > $log 2>&1 || {
		tail -20 $log >&2
		die "$part does not build; see above"
	}
}
new() { # BUILT INSTALLED
	cmp -s "$1" "$2" && return 1
	echo "changed: $2"
}
signer() { # MODULE
	modinfo -F signer "$1" 2> /dev/null || true
}
install_module() { # RELEASE; false if it was there
	built=$src/kmod-$1/fastsocket.ko installed=/lib/modules/$1/updates/fastsocket.ko
	if [ -n "$(signer "$installed")" ] && [ -z "$(signer "$built")" ]; then
		# A signature is appended to the module.
		! cmp -s -n "$(stat -c %s "$built")" "$built" "$installed" || return 1
		die "$installed is signed by $(signer "$installed"), and what was built is not: sign $built with that key and run this again, let DKMS sign it (install_dkms=true), or remove $installed if the kernel takes modules without a signature"
	fi
	new "$built" "$installed" || return 1
	before=$(modinfo -F depends "$installed" 2> /dev/null || echo none)
	install -D -m 644 "$built" "$installed" > $log 2>&1 ||
		die "the module cannot be installed: $(tail -3 $log)"
	# depmod takes 17 s in an emulator, and the modules that this one needs seldom change.
	if [ "$(modinfo -F depends "$installed")" != "$before" ] ||
		! grep -q '^updates/fastsocket.ko:' "/lib/modules/$1/modules.dep"; then
		depmod "$1" > $log 2>&1 || die "depmod failed: $(tail -3 $log)"
	fi
}
# One folder for each kernel: the lab has several.
build_module() { # RELEASE
	! ls "/lib/modules/$1/updates/dkms/fastsocket.ko"* > /dev/null 2>&1 ||
		die "DKMS has installed fastsocket for kernel $1: use that (install_dkms=true), or remove it (apt-get remove fastsocket-dkms, or dkms remove fastsocket/VERSION --all)"
	kmod=$src/kmod-$1
	mkdir -p "$kmod"
	cp -rpu $src/kmod/* "$kmod"
	# Kbuild would take 16 s in an emulator to find that out.
	if [ -e "$kmod/fastsocket.ko" ] && [ -z "$(find "$kmod" -newer "$kmod/fastsocket.ko" \
		'(' -name '*.[ch]' ! -name '*.mod.c' -o -name Kbuild -o -name Makefile ')')" ]; then
		return
	fi
	# Leave out debugging information, which takes a quarter of an emulated compiler's time.
	# BTF is made from it, so there is none either.
	build "kmod-$1" KVER="$1" KCFLAGS=-g0 CONFIG_DEBUG_INFO_BTF_MODULES=
}

# DKMS builds the module with its debugging information, signs it, and keeps the sources.
install_by_dkms() { # RELEASE; false if it was there
	version=$(sed -n 's/^PACKAGE_VERSION="\(.*\)"/\1/p' $src/kmod/dkms.conf)
	kept=/usr/src/fastsocket-$version
	! dpkg -S "$kept" > /dev/null 2>&1 ||
		die "$kept belongs to a package: remove it (apt-get remove fastsocket-dkms), or leave install_dkms out"
	if ! diff -rq $src/kmod "$kept" > $log 2>&1; then
		dkms remove "fastsocket/$version" --all > $log 2>&1 || true
		rm -rf "$kept"
		cp -rp $src/kmod "$kept"
		dkms add "fastsocket/$version" > $log 2>&1 || die "DKMS refuses the sources: $(tail -3 $log)"
	fi
	case $(dkms status "fastsocket/$version" -k "$1") in *installed*) return 1 ;; esac
	# If there were two modules of one name, depmod would choose one.
	rm -f "/lib/modules/$1/updates/fastsocket.ko"
	dkms install "fastsocket/$version" -k "$1" > $log 2>&1 || {
		cat "/var/lib/dkms/fastsocket/$version/build/make.log" >> $log 2> /dev/null || true
		tail -20 $log >&2
		die "DKMS does not install the module; see above"
	}
	echo "changed: fastsocket/$version by DKMS, for kernel $1"
}

image=
module=install_module
if [ "${1:-}" = dkms ]; then
	module=install_by_dkms
	shift
fi
if [ "${1:-}" = image ]; then
	image=yes
	shift
else
	set -- "$(uname -r)"
fi
if [ $module = install_module ]; then
	for release; do build_module "$release"; done
fi
build library
build demo
if [ -n "$image" ]; then
	for release; do $module "$release" || true; done
	exit 0
fi

# The sweep would measure an older module that stays loaded.
if $module "$(uname -r)" && [ -e /sys/module/fastsocket ]; then
	rmmod fastsocket ||
		die "an older fastsocket module is in use: stop the programs that use it, then rmmod fastsocket"
fi
library=
for pair in libfsocket.so:lib fsocketctl:bin fsocketctl.1:share/man/man1 libfsocket.7:share/man/man7; do
	new "$src/library/${pair%:*}" "/usr/local/${pair#*:}/${pair%:*}" && library=new
done
if [ -n "$library" ]; then
	make -s -C $src/library install > $log 2>&1 || die "the library cannot be installed: $(tail -3 $log)"
fi
if new $src/demo/server /usr/local/bin/fsbench-server; then
	install -D -m 755 $src/demo/server /usr/local/bin/fsbench-server
fi
# The lab's guest is switched off without a shutdown, so write everything to disk now.
sync -f $src

if ! why=$(modprobe fastsocket 2>&1); then
	echo "$why" >&2
	dmesg | grep -iE 'fastsocket|lockdown|signature|vermagic|module' | tail -5 >&2
	die "the module does not load; the kernel's reason is above (a signature or lockdown: sign the module or disable Secure Boot; a version: rebuild for this kernel)"
fi
