# SPDX-License-Identifier: GPL-2.0-only
# bash completion for fsocketctl(1)
# shellcheck shell=bash

_fsocketctl()
{
	local word=${COMP_WORDS[COMP_CWORD]} parameters=/sys/module/fastsocket/parameters

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W 'status set watch listeners doctor run --help' -- "$word")
		return
	fi
	case ${COMP_WORDS[1]} in
	run)
		# What follows the program is the program's own.
		if declare -F _command_offset > /dev/null && [ "$word" != --json ]; then
			local at=2
			[ "${COMP_WORDS[2]}" != --json ] || at=3
			_command_offset "$at"
		else
			mapfile -t COMPREPLY < <(compgen -c -- "$word")
		fi
		;;
	set)
		if [[ $word == -* ]]; then
			COMPREPLY=(--json)
		elif [ -d "$parameters" ]; then
			mapfile -t COMPREPLY < <(compgen -S = -W "$(ls "$parameters")" -- "$word")
			compopt -o nospace
		fi
		;;
	*)
		mapfile -t COMPREPLY < <(compgen -W --json -- "$word")
		;;
	esac
} && complete -F _fsocketctl fsocketctl
