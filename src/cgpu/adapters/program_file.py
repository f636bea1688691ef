"""What the kernel would start for a command: the ELF file behind it, and the loader that it names.

Sources: elf(5) for the header and the program headers, execve(2) for scripts.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_PART: Final = struct.Struct("<IIQQQQQQ")  # Elf64_Phdr
_MAGIC: Final = b"\x7fELF"
_CLASS_64: Final = b"\2\1"  # 64 bits, the lowest byte first
_PT_INTERP: Final = 3
_MACHINES: Final = {"x86_64": 62, "aarch64": 183}  # e_machine
_LOOKED_AT_BYTES: Final = 1 << 16  # program headers stand at the beginning, and the loader's name behind them
_NAME_BYTES: Final = 4096
_SCRIPTS: Final = 4  # that may start one another


@dataclass(frozen=True, slots=True)
class Program:
    """An ELF file: whether it is for this machine, and its loader."""

    path: Path
    native: bool
    loader: str
    """As the file names it; empty where it is static."""


def program_of(command: str, environment: Mapping[str, str]) -> Program | None:
    """The program that a command's first word starts, found by PATH, scripts followed to what runs them.

    None where that is not a readable ELF file: the kernel then says what is wrong, better than anybody could guess.
    """
    for _ in range(_SCRIPTS):
        found = shutil.which(command, path=environment.get("PATH", os.defpath))
        if found is None:
            return None
        try:
            with open(found, "rb") as file:  # noqa: PTH123 - one read, no more of it
                content = file.read(_LOOKED_AT_BYTES)
        except OSError:
            return None
        if not content.startswith(b"#!"):
            parsed = parse_program(content, os.uname().machine)
            return None if parsed is None else Program(Path(found), *parsed)
        words = content[2:].split(b"\n", 1)[0].split()
        if not words:
            return None
        command = os.fsdecode(words[0])
    return None


def parse_program(content: bytes, machine: str) -> tuple[bool, str] | None:
    """Whether a program is for the machine, and its loader, from the beginning of its file; None: it is no ELF file."""
    if not content.startswith(_MAGIC) or len(content) < _HEAD.size:
        return None
    ident, _, its_machine, _, _, parts, _, _, _, part_bytes, count, *_ = _HEAD.unpack_from(content)
    if ident[4:6] != _CLASS_64 or its_machine != _MACHINES.get(machine):
        return False, ""
    for index in range(count if part_bytes == _PART.size else 0):
        place = parts + index * _PART.size
        if place + _PART.size > len(content):
            break
        kind, _, offset, _, _, size, _, _ = _PART.unpack_from(content, place)
        if kind == _PT_INTERP and size <= _NAME_BYTES:
            return True, os.fsdecode(content[offset : offset + size].rstrip(b"\0"))
    return True, ""
