"""The reader of programs: it never fails, whatever the bytes, and finds the loader where the file names one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.program_file import parse_program

MACHINES = {"x86_64": 62, "aarch64": 183}


def elf(machine: int, loader: bytes | None, *, before: int = 0, bits: int = 2) -> bytes:
    """A program with some program headers before the loader's; None: it has no loader."""
    count = before + (loader is not None)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF" + bytes([bits, 1, 1]), 3, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    parts = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0, 0, 0) * before
    if loader is None:
        return head + parts
    offset = 64 + 56 * count
    return head + parts + struct.pack("<IIQQQQQQ", 3, 4, offset, 0, 0, len(loader) + 1, 0, 1) + loader + b"\0"


@given(st.binary(max_size=300), st.sampled_from(sorted(MACHINES)))
def test_any_bytes(content: bytes, machine: str) -> None:
    for bytes_ in (content, b"\x7fELF" + content, elf(MACHINES[machine], None)[:-1] + content):
        parsed = parse_program(bytes_, machine)
        assert parsed is None or isinstance(parsed[1], str)


@given(st.integers(0, 20), st.sampled_from(["/lib64/ld-linux-x86-64.so.2", "/lib/ld-musl-x86_64.so.1", "/x/y"]))
def test_the_loader_is_found(before: int, loader: str) -> None:
    assert parse_program(elf(62, loader.encode(), before=before), "x86_64") == (True, loader)
    assert parse_program(elf(62, None, before=before), "x86_64") == (True, "")


@given(st.data())
def test_a_file_that_was_cut_or_changed(data: st.DataObject) -> None:
    whole = bytearray(elf(62, b"/lib64/ld-linux-x86-64.so.2", before=2))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    parse_program(bytes(whole[: data.draw(st.integers(0, len(whole)))]), "x86_64")


@pytest.mark.parametrize(("machine", "bits"), [(183, 2), (62, 1), (3, 1), (0xFFFF, 2)])
def test_another_architecture(machine: int, bits: int) -> None:
    assert parse_program(elf(machine, b"/lib/ld.so", bits=bits), "x86_64") == (False, "")
