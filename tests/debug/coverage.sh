#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
#	coverage.sh KERNEL	prints by file the share of the module's lines that have run since
#				the lab was booted with this debug kernel (one with gcov: kasan);
#				the lines themselves are in .lab/debug/KERNEL/coverage/*.gcov
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(cd "$here/../.." && pwd -P)
kernel=${1:-}
build=$root/.lab/debug/$kernel
out=$build/coverage

die() { echo "coverage: $*" >&2; exit 1; }

[ -d "$build/stage" ] || die "no module has been built for $kernel: run tests/debug/stage.sh $kernel"
release=$(cat "$build/include/config/kernel.release")
module=$build/stage/usr/local/src/fsbench/kmod-$release

rm -rf "$out"
mkdir -p "$out"
# The files of debugfs have the size 0, so tar would pack nothing.
"$root/playbooks/roles/lab/files/lab.sh" ssh "
	mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
	cd '/sys/kernel/debug/gcov$module' || exit 1
	rm -rf /tmp/gcov; mkdir /tmp/gcov
	for file in *.gcda; do cat \$file > /tmp/gcov/\$file; done
	tar -C /tmp/gcov -c ." | tar -C "$out" -x ||
	die "the guest has counted nothing: boot it with --kernel $kernel, and load the module that stage.sh built"
cp "$module"/*.gcno "$out"
cd "$out"
gcov -s "$module" -r -o . ./*.gcda > report 2> errors || die "gcov failed: see $out/errors"
awk '/^File/ { name = $2; gsub(/.*\/|\x27/, "", name) }
	/^Lines executed/ && name ~ /\.c$/ {
		split($2, part, /[:%]/); lines = $4; done[name] = part[2] * lines / 100; all[name] = lines }
	# A line without a file is the sum, including headers of the kernel.
	/^Lines executed/ { name = "" }
	END {
		for (name in all) {
			printf "%-16s %5d lines %6.1f %%\n", name, all[name], 100 * done[name] / all[name]
			sum += done[name]; total += all[name]
		}
		printf "%-16s %5d lines %6.1f %%\n", "together", total, total ? 100 * sum / total : 0
	}' report | sort
