"""As much of an ELF64 file as tells what machine it is for and whether it needs a dynamic loader (elf(5))."""

import struct
from pathlib import Path

MACHINES = {62: "x86_64", 183: "aarch64"}
_PT_INTERP = 3


def machine(executable: Path) -> str:
    """What e_machine says."""
    (number,) = struct.unpack_from("<H", executable.read_bytes(), 18)
    return MACHINES[number]


def needs_interpreter(executable: Path) -> bool:
    """Whether there is a PT_INTERP segment: a static executable has none."""
    data = executable.read_bytes()
    assert data[:5] == b"\x7fELF\x02", executable
    (offset,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return any(struct.unpack_from("<I", data, offset + size * i)[0] == _PT_INTERP for i in range(count))
