#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Prints what the lab's server has at the kernel addresses on standard input:
#	names.sh SSH_CONFIG LOG
# LOG gets the messages of building the program.
#
# If the server does not have them since it was booted or modules were loaded, it gets the program
# and a copy of the symbols that are not functions; the copy takes an emulated kernel seconds.
set -euo pipefail

config=$1 log=$2
counting=$(dirname "$0")

die() { echo "lab: $*" >&2; exit 1; }
in_guest() { ssh -F "$config" fsb-server "$1"; }

make -s -C "$counting" names > "$log" 2>&1 ||
	die "counting/names does not build: see .lab/counting.log, or run make packages-sweep"
program=/usr/local/lib/fsbench-names-$(sha1sum < "$counting/names" | cut -c1-8)
addresses=$(cat)
ask="test -x $program || exit 77
	copy=/run/fsbench-kallsyms
	cut -d ' ' -f 1,6 /proc/modules > \$copy.now
	cmp -s \$copy.now \$copy.modules ||
		{ grep -v ' [tTwW] ' /proc/kallsyms > \$copy && mv \$copy.now \$copy.modules; } &&
	exec $program \$copy"
in_guest "$ask" <<< "$addresses" && exit
[ $? = 77 ] || die "the server's kernel cannot be asked what its lines are"
in_guest "cat > $program.new && chmod +x $program.new && mv $program.new $program" \
	< "$counting/names"
in_guest "$ask" <<< "$addresses"
