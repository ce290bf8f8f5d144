#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# build-demo.sh SOURCES
#
# Builds the demo that was copied to SOURCES/demo, from where it runs. Prints "changed: ..." if
# the program is new.
set -eu

server=$1/demo/server log=$1/build.log
before=$(stat -c %Y "$server" 2> /dev/null || true)
if ! make -s -C "$1/demo" > "$log" 2>&1; then
	tail -20 "$log" >&2
	echo "$(hostname): demo does not build; see above" >&2
	exit 1
fi
[ "$(stat -c %Y "$server")" = "$before" ] || echo "changed: $server"
