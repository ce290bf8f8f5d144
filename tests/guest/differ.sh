#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Runs random programs plain and preloaded, and compares their output.
#	differ.sh LIBRARY FIRST-SEED COUNT
# Exit status 1 if any differs twice in a row; once may happen since other programs take ports.
cd "$(dirname "$0")" || exit 2
library=${1:?path of libfsocket.so} first=${2:?first seed} count=${3:?how many}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

same() { # SEED
	./random_calls "$1" > "$out/plain" 2>&1
	echo "status $?" >> "$out/plain"
	LD_PRELOAD=$library ./random_calls "$1" > "$out/preloaded" 2> "$out/err"
	echo "status $?" >> "$out/preloaded"
	cmp -s "$out/plain" "$out/preloaded"
}

for ((seed = first; seed < first + count; seed++)); do
	same $seed || same $seed || {
		echo "seed $seed differs:"
		diff "$out/plain" "$out/preloaded" | head -20
		bad=1
	}
done
[ -z "${bad:-}" ] && echo "$count programs, none differs"
exit "${bad:-0}"
