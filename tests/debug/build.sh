#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The debug kernels, from Debian's linux-source packages and the fragments of this folder:
#
#	build.sh KERNEL...	for instance 6.1-kasan: builds it into .lab/debug/6.1-kasan,
#				unless it is there and its fragments have not changed
#	build.sh config KERNEL	makes its configuration only, to show the effect of the fragments
#	build.sh names KERNEL...	only looks whether there are such kernels
#
# Environment: DEBUG_JOBS=N	how many compilers at once (all CPUs)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
debug=$(cd "$here/../.." && pwd -P)/.lab/debug
jobs=${DEBUG_JOBS:-$(nproc)}

die() { echo "debug kernel: $*" >&2; exit 1; }
say() { printf 'debug kernel: %3d s: %s\n' "$SECONDS" "$*"; }

# Everything that the kernel depends on.
recipe() { # VERSION PURPOSE
	dpkg-query -Wf '${Version}\n' "linux-source-$1"
	cat "$here/common.config" "$here/$2.config"
}

# The kernel's build silently drops options that it does not have, or whose dependencies are not
# met, so the options of the fragments are looked for in the result.
check_config() { # VERSION PURPOSE
	local config=$debug/$1-$2/.config line missing=
	while read -r line; do
		case $line in
		CONFIG_*=n) grep -q "^${line%=n}=" "$config" && missing+=" $line" ;;
		CONFIG_*) grep -qxF "$line" "$config" || missing+=" $line" ;;
		esac
	done < <(sed 's/ *#.*//' "$here/common.config" "$here/$2.config")
	[ -z "$missing" ] || say "$1-$2: this kernel does not have:$missing"
}

configure() { # VERSION PURPOSE
	local source=$debug/linux-source-$1 out=$debug/$1-$2
	if [ ! -f "$source/.unpacked" ]; then
		[ -f "/usr/src/linux-source-$1.tar.xz" ] ||
			die "/usr/src/linux-source-$1.tar.xz is missing: run make packages-debug"
		say "$1: unpacking Debian's source"
		rm -rf "$source"
		mkdir -p "$debug"
		tar -C "$debug" -xf "/usr/src/linux-source-$1.tar.xz" \
			--exclude="linux-source-$1/Documentation/*/*" \
			--exclude="linux-source-$1/drivers/gpu/drm/amd/include"
		touch "$source/.unpacked"
	fi
	mkdir -p "$out"
	cat "$here/common.config" "$here/$2.config" > "$out/fragments"
	# The name is that of the folder of modules, and tells them from Debian's.
	echo "CONFIG_LOCALVERSION=\"-$2\"" >> "$out/fragments"
	make -s -C "$source" O="$out" KCONFIG_ALLCONFIG="$out/fragments" allnoconfig > "$out/log" 2>&1 ||
		{ tail -5 "$out/log" >&2; die "$1-$2 cannot be configured: see $out/log"; }
	check_config "$1" "$2"
}

build() { # VERSION PURPOSE
	local out=$debug/$1-$2
	if [ -f "$out/recipe" ] && [ "$(cat "$out/recipe")" = "$(recipe "$1" "$2" | sha1sum)" ]; then
		return
	fi
	rm -f "$out/recipe"
	configure "$1" "$2"
	say "$1-$2: compiling with $jobs jobs (ten to twenty minutes on two quiet CPUs)"
	make -s -C "$out" -j"$jobs" bzImage modules > "$out/log" 2>&1 ||
		{ grep -E -m5 'error|Error' "$out/log" >&2; die "$1-$2 does not build: see $out/log"; }
	recipe "$1" "$2" | sha1sum > "$out/recipe"
	say "$1-$2: ready"
}

action=build
if [ "${1:-}" = config ]; then
	action=configure
	shift
elif [ "${1:-}" = names ]; then
	action=:
	shift
fi
[ $# != 0 ] || die "usage: build.sh [config] VERSION-PURPOSE..."
for kernel; do
	if ! [[ $kernel =~ ^(6\.1|6\.12)-([a-z]+)$ && -f $here/${BASH_REMATCH[2]}.config ]]; then
		die "$kernel: give 6.1 or 6.12, a dash, and the name of a fragment: kasan, lockdep, leak"
	fi
done
for kernel; do
	$action "${kernel%-*}" "${kernel#*-}"
done
