#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Builds and installs what was copied to /usr/local/src/fsbench, as root, and
# loads the module. Says "changed: ..." for each file that is new.
set -eu

src=/usr/local/src/fsbench
log=/run/fsbench-build.log
die() { echo "$(hostname): $*" >&2; exit 1; }

# Of the module: without debugging information, a quarter of an emulated compiler's time.
# BTF is made of that, so there is none either.
export MAKEFLAGS='KCFLAGS=-g0 CONFIG_DEBUG_INFO_BTF_MODULES='

# One folder for each kernel: the lab has several, and emulated compilers are slow.
kmod=$src/kmod-$(uname -r)
mkdir -p "$kmod"
cp -rpu $src/kmod/* "$kmod"

for part in "${kmod#"$src"/}" library demo; do
	make -s -C "$src/$part" -j"$(nproc)" > $log 2>&1 || {
		tail -20 $log >&2
		die "$part does not build; see above"
	}
done

new() { # BUILT INSTALLED
	cmp -s "$1" "$2" && return 1
	echo "changed: $2"
}
if new "$kmod/fastsocket.ko" "/lib/modules/$(uname -r)/updates/fastsocket.ko"; then
	make -s -C "$kmod" install > $log 2>&1 || die "the module cannot be installed: $(tail -3 $log)"
	# A running older one would be measured instead.
	[ ! -e /sys/module/fastsocket ] || rmmod fastsocket ||
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
# A lab is switched off without a shutdown.
sync -f $src

if ! why=$(modprobe fastsocket 2>&1); then
	echo "$why" >&2
	dmesg | grep -iE 'fastsocket|lockdown|signature|vermagic|module' | tail -5 >&2
	die "the module does not load; the kernel's reason is above (a signature or lockdown: sign the module or disable Secure Boot; a version: rebuild for this kernel)"
fi
