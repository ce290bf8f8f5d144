#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Every checker on every file; ends with status 1 if any of them complains.
# shellcheck disable=SC2317 # functions are called through check
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

status=0
check() { # NAME COMMAND...
	local name=$1 output
	shift
	if output=$("$@" 2>&1); then
		echo "ok      $name"
	else
		echo "FAILED  $name"
		echo "$output"
		status=1
	fi
}

mapfile -t shell < <(git ls-files '*.sh')
mapfile -t python < <(git ls-files '*.py')
mapfile -t kernel < <(git ls-files 'kmod/*.[ch]' 'tests/guest/nic')
mapfile -t user < <(git ls-files '*.[ch]' ':!kmod' ':!tests/guest/nic')

licensed() {
	local missing
	missing=$(git ls-files '*.[ch]' '*.py' '*.sh' '*.yml' '*.gp' '*Makefile' 'library/*.[17]' kmod/Kbuild \
		kmod/dkms.conf ':!results' | xargs grep -L 'SPDX-License-Identifier: GPL-2.0-only')
	[ -z "$missing" ] || { echo "no licence identifier in: $missing"; return 1; }
}

# The tree must not have files that are built from it.
sources_only() {
	local built
	built=$(git ls-files -z ':!results' | xargs -0 grep -lP '\A\x7fELF')
	[ -z "$built" ] || { echo "built from other files, and committed: $built"; return 1; }
}

# Builds in a copy, so that the build of the tree stays. Warnings about the kernel's headers do not
# count.
build_module() { # KERNEL-RELEASE
	local tmp log
	tmp=$(mktemp -d)
	cp -r kmod/*.[ch] kmod/Kbuild kmod/Makefile kmod/examples "$tmp"
	log=$(make -s -C "$tmp" KVER="$1" W=1 C=2 2>&1) || { echo "$log"; rm -rf "$tmp"; return 1; }
	rm -rf "$tmp"
	log=$(grep -E "^$tmp.*(warning|error):" <<< "$log")
	[ -z "$log" ] || { echo "$log"; return 1; }
}

checkpatch() {
	local archive
	archive=$(find /usr/src -name 'linux-source-6.1.tar.xz')
	if ! [ -x .lab/lint/scripts/checkpatch.pl ]; then
		mkdir -p .lab/lint
		tar -C .lab/lint --strip-components=1 -xf "$archive" --wildcards \
			'*/scripts/checkpatch.pl' '*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch'
	fi
	# Checks that are left out: maintainers of a file, since it is outside the kernel's tree; kernel
	# versions, which compat.h needs; a constant proto_ops, which the module changes; and parentheses
	# around the name of a member. trace.h has the layout of the kernel's headers of tracepoints.
	.lab/lint/scripts/checkpatch.pl --no-tree --strict --terse --quiet --file \
		--ignore FILE_PATH_CHANGES,LINUX_VERSION_CODE,CONSTANT_COMPARISON,CONST_STRUCT,MACRO_ARG_PRECEDENCE \
		--max-line-length=100 "$@"
}

user_space() {
	local file
	for file in "${user[@]}"; do
		[ "${file##*.}" = h ] || gcc -D_GNU_SOURCE -std=gnu11 -O2 -Wall -Wextra -Werror \
			-fsyntax-only "$file" || return 1
	done
}

manual_pages() {
	local warnings
	warnings=$(groff -man -ww -Tutf8 library/*.[17] 2>&1 > /dev/null)
	[ -z "$warnings" ] || { echo "$warnings"; return 1; }
}

check "no built files" sources_only
check "licence identifiers" licensed
check "manual pages" manual_pages
check "shellcheck" shellcheck "${shell[@]}"
check "flake8" flake8 "${python[@]}"
check "yamllint" yamllint -s .
check "ansible-lint" env -C playbooks ansible-lint --offline -q
check "user-space C" user_space
check "checkpatch" checkpatch "${kernel[@]/kmod\/trace.h/kmod\/trace.c}"
for headers in /lib/modules/*/build; do
	release=${headers#/lib/modules/}
	check "module for ${release%/build}, W=1 and sparse" build_module "${release%/build}"
done
exit $status
