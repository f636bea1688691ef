"""What a built library exports, imports and asks of the loader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection


@dataclass(frozen=True)
class SharedLibrary:
    """The dynamic section of a shared library, read from the file."""

    machine: str  # "EM_X86_64"
    soname: str
    exports: dict[str, int]  # name -> offset from the load address; functions and data
    needed: frozenset[str]  # sonames
    versions: frozenset[str]  # symbol versions that it asks of others, such as "GLIBC_2.17"
    bind_now: bool
    relro: bool
    executable_stack: bool

    @classmethod
    def read(cls, path: Path) -> SharedLibrary:
        """Read a shared library file."""
        with path.open("rb") as file:
            elf = ELFFile(file)
            symbols = elf.get_section_by_name(".dynsym")
            dynamic = elf.get_section_by_name(".dynamic")
            needs = elf.get_section_by_name(".gnu.version_r")
            assert isinstance(symbols, SymbolTableSection)
            assert isinstance(dynamic, DynamicSection)
            tags: list[Any] = list(dynamic.iter_tags())
            segments = {segment["p_type"]: segment for segment in elf.iter_segments()}
            return cls(
                machine=elf["e_machine"],
                soname=next((str(tag.soname) for tag in tags if tag.entry.d_tag == "DT_SONAME"), ""),
                exports={
                    symbol.name: symbol["st_value"]
                    for symbol in symbols.iter_symbols()
                    if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] in {"STB_GLOBAL", "STB_WEAK"}
                },
                needed=frozenset(str(tag.needed) for tag in tags if tag.entry.d_tag == "DT_NEEDED"),
                versions=frozenset(
                    auxiliary.name for _, auxiliaries in needs.iter_versions() for auxiliary in auxiliaries
                ) if isinstance(needs, GNUVerNeedSection) else frozenset(),
                bind_now=any(
                    tag.entry.d_tag == "DT_BIND_NOW"
                    or (tag.entry.d_tag == "DT_FLAGS" and tag.entry.d_val & 0x8)  # DF_BIND_NOW
                    or (tag.entry.d_tag == "DT_FLAGS_1" and tag.entry.d_val & 0x1)  # DF_1_NOW
                    for tag in tags
                ),
                relro="PT_GNU_RELRO" in segments,
                executable_stack="PT_GNU_STACK" not in segments or bool(segments["PT_GNU_STACK"]["p_flags"] & 1),
            )  # fmt: skip
