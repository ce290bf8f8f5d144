#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
#	stage.sh KERNEL		a tar archive on stdout, to be unpacked at / of a guest that
#				runs this debug kernel: module, library, demo and the tests'
#				modules, built here, since an emulator that checks each
#				access compiles for hours
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
kernel=${1:-}
build=$root/.lab/debug/$kernel
stage=$build/stage
src=$stage/usr/local/src/fsbench

die() { echo "stage: $*" >&2; exit 1; }

[ -f "$build/recipe" ] || die "there is no kernel $kernel: build it with tests/debug/build.sh $kernel"
release=$(cat "$build/include/config/kernel.release")

make_part() { # FOLDER VARIABLE=VALUE...
	local folder=$1
	shift
	make -s -C "$folder" -j2 "$@" > "$build/stage.log" 2>&1 ||
		{ tail -20 "$build/stage.log" >&2; die "$folder does not build; see above"; }
}

rm -rf "$stage"
mkdir -p "$src/kmod-$release" "$stage/lib/modules/$release/build"
"$root/playbooks/roles/install/files/sources.sh" kmod library demo | tar -C "$src" -x
# A kernel with gcov counts the lines that have run. The paths in its report are those of this
# machine.
coverage=
grep -q '^CONFIG_GCOV_KERNEL=y' "$build/.config" && coverage=GCOV_PROFILE=y
cp -rp "$src/kmod/." "$src/kmod-$release"
make_part "$src/kmod-$release" KDIR="$build" $coverage
make_part "$src/library"
make_part "$src/demo"
mkdir -p "$src/tests"
cp -r "$root/tests/guest" "$src/tests"
rm -rf "$src"/tests/guest/{*.ko,failing,building}
make_part "$src/tests/guest" KDIR="$build"

# Everything else is built in. The Makefile stands for the headers that provisioning looks
# for: nothing is built there.
cp "$build"/modules.{order,builtin,builtin.modinfo} "$stage/lib/modules/$release"
touch "$stage/lib/modules/$release/build/Makefile"
# In the guest, /lib is a symbolic link.
cd "$stage"
tar -c --owner=0 --group=0 "usr/local/src/fsbench" --transform='s,^lib/,usr/lib/,' "lib/modules/$release"
