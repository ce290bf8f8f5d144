#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# sources.sh PART...	the sources of kmod, library or demo as a tar archive on stdout
set -eu
cd "$(dirname "$0")/../../../.."
find "$@" -type f '(' -name '*.[ch17]' -o -name Makefile -o -name Kbuild -o -name dkms.conf -o -name completion.bash ')' ! -name '*.mod.c' -print0 |
	tar --null -T - -c
