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
		# What follows the program is the program's own. bash takes "=" for a word.
		local at=2
		while [[ ${COMP_WORDS[at]} == -* ]] && [ "$at" -lt "$COMP_CWORD" ]; do
			[ "${COMP_WORDS[at + 1]-}" != = ] || at=$((at + 2))
			at=$((at + 1))
		done
		if [ "$at" -gt "$COMP_CWORD" ]; then
			mapfile -t COMPREPLY < <(compgen -W 'auto module kernel' -- "${word#=}")
		elif [[ $word == -* ]] && [ "$at" -eq "$COMP_CWORD" ]; then
			mapfile -t COMPREPLY < <(compgen -W '--json --backend=auto --backend=module --backend=kernel' -- "$word")
		elif declare -F _command_offset > /dev/null; then
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
