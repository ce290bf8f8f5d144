#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Prints which Debian packages the servers and the load tools are, as their files say.

    packages.py GROUP...    of the hosts of these groups, server or loadgen: a name in a line
    packages.py services    "PACKAGE SERVICE" of each server that Debian starts by itself

The role provision and the lab's image install these. They need nothing but Python for it.
"""
import argparse

import servers
import tools

LISTS = {"server": servers.packages, "loadgen": tools.packages,
         "services": lambda: [" ".join(pair) for pair in servers.services()]}


def main():
    parser = argparse.ArgumentParser(
        description="Print the Debian packages of servers and load tools.")
    parser.add_argument("lists", nargs="+", metavar="LIST", choices=LISTS,
                        help=" or ".join(LISTS))
    for line in dict.fromkeys(line for name in parser.parse_args().lists
                              for line in LISTS[name]()):
        print(line)


if __name__ == "__main__":
    main()
