# SPDX-License-Identifier: GPL-2.0-only
"""Searches the running kernel for pointers of the module to functions that the kernel has sealed.

A kernel with CONFIG_X86_KERNEL_IBT replaces the ENDBR64 of each function whose address it never
takes. A pointer to such a function may be called only on processors without IBT. The module may
have none outside the keys of its static calls, which are direct. Usage: sealed.py; as root."""
import struct
import sys

SEALED = bytes.fromhex("660f1f00")
PAGE = 4096


class Memory:
    """The kernel's memory, by virtual address."""

    def __init__(self):
        self.file = open("/proc/kcore", "rb")  # pylint: disable=consider-using-with
        header = self.file.read(64)
        offset, size, count = (struct.unpack_from("<Q", header, 32)[0],
                               *struct.unpack_from("<HH", header, 54))
        self.segments = []
        for i in range(count):
            self.file.seek(offset + i * size)
            kind, _, where, start, _, length = struct.unpack_from("<IIQQQQ", self.file.read(size))
            if kind == 1:
                self.segments.append((start, length, where))

    def read(self, address, length):
        for start, size, where in self.segments:
            if start <= address and address + length <= start + size:
                self.file.seek(where + address - start)
                return self.file.read(length)
        return b""


def main():
    memory, kernel, ours = Memory(), {}, {}
    with open("/proc/kallsyms", encoding="ascii") as symbols:
        for line in symbols:
            address, kind, name, *module = line.split()
            if module == ["[fastsocket]"] and kind in "bBdDrR":
                ours[int(address, 16)] = name
            elif not module and kind in "tTwW":
                kernel[int(address, 16)] = name
    pages = {address // PAGE for address in ours}
    found = pointers = 0
    for page in sorted(pages):
        data = memory.read(page * PAGE, PAGE)
        for i in range(0, len(data) - 7, 8):
            target = struct.unpack_from("<Q", data, i)[0]
            if target not in kernel:
                continue
            pointers += 1
            place = max((a for a in ours if a <= page * PAGE + i), default=0)
            name = ours.get(place, "?")
            if memory.read(target, 4) == SEALED and not name.startswith("__SCK__"):
                print(f"{name} points to {kernel[target]}, which is sealed")
                found += 1
    print(f"{pointers} pointers into the kernel, {found} to sealed functions")
    return 1 if found or not pointers else 0


if __name__ == "__main__":
    sys.exit(main())
