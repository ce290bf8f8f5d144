#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# build-demo.sh SOURCES
#
# Builds what was copied to SOURCES/demo; it runs from there. Says "changed: ..." if
# that is new.
set -eu

server=$1/demo/server log=$1/build.log
before=$(stat -c %Y "$server" 2> /dev/null || true)
if ! make -s -C "$1/demo" > "$log" 2>&1; then
	tail -20 "$log" >&2
	echo "$(hostname): demo does not build; see above" >&2
	exit 1
fi
[ "$(stat -c %Y "$server")" = "$before" ] || echo "changed: $server"
