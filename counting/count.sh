#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
#	count.sh REQUESTS FOLDER COMMAND...
#
# Counts on the lab's server while COMMAND, which makes REQUESTS requests, runs on the
# load generator; writes the tables to FOLDER. QUANTUM (2000) is taken from the environment.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
lab=$root/playbooks/roles/lab/files/lab.sh
[ $# -ge 3 ] || { echo "usage: ${0##*/} REQUESTS FOLDER COMMAND..." >&2; exit 2; }
requests=$1 folder=$2
shift 2

make -s -C "$root/counting"
mkdir -p "$folder"
"$lab" ssh cat /proc/kallsyms > "$folder/kallsyms"
"$lab" count on "${QUANTUM:-2000}"
trap '"$lab" count off' EXIT
"$lab" loadgen "$@"
trap - EXIT
"$lab" count off
"$lab" count dump "$folder/dump"
"$root/counting/read" "$folder/dump" "$folder/kallsyms" "$requests" "$folder"
awk -F , 'NR > 1 { print $NF }' "$folder/lines.csv" | "$lab" count names > "$folder/names.csv"
tail -n +2 -q "$folder/totals.csv" "$folder/groups.csv"
