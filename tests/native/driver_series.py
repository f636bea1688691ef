"""Simulated drivers of one series: the same libraries, less every function that is younger than the series.

A function is hidden by taking its definition out of the library's table of dynamic symbols, so that neither the
loader nor anybody who reads the table finds it, as in a library that was built without it. cuGetProcAddress of
the simulated driver answers by its version already.
"""

from __future__ import annotations

import re
import shutil
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cgpu.adapters.native import SIMULATED_CUDA, SIMULATED_NVML
from native import build

SINCE_NVML: Final = Path(__file__).parent / "data" / "nvml_since.tsv"
_SYMBOL: Final = struct.Struct("<IBBHQQ")  # Elf64_Sym
_STB_WEAK: Final = 2
# In no row of the table of cuGetProcAddress. NVIDIA's libcuda 535, 550 and 555 have none of them.
_ABSENT_TO_12_5: Final = ("cuEventCreateFromEGLSync", "cuGetProcAddress_v2_ptsz", "cuWGLGetDevice")


def series() -> dict[int, int]:
    """The CUDA version of each driver series that can be simulated."""
    text = (build.NATIVE / "simgpu" / "card_profile.c").read_text()
    table = text[text.index("cuda_of_branch[] = {") :]
    return {int(branch): int(cuda) for branch, cuda in re.findall(r"\{(\d+), (\d+)\}", table[: table.index("};")])}


def cuda_since() -> dict[str, int]:
    """The CUDA version from which libcuda exports a function."""
    found = dict.fromkeys(_ABSENT_TO_12_5, 13000)
    text = (build.NATIVE / "simgpu" / "cuda_procaddress.inc").read_text()
    for version, export in re.findall(r"^SG_PROC\(\w+, \w+, (\d+), (\w+)\)", text, re.MULTILINE):
        found[export] = min(int(version), found.get(export, int(version)))
    return found


def nvml_since() -> dict[str, int]:
    """The driver branch from which libnvidia-ml exports a function; older ones are not in it."""
    lines = [line.split("\t") for line in SINCE_NVML.read_text().splitlines() if not line.startswith("#")]
    return {name: int(branch) for name, branch in lines}


def make_native(folder: Path, native: Path, branch: int) -> Path:
    """A folder like ``native``, the built libraries, with the simulated driver of a series."""
    (folder / "sim").mkdir(parents=True)
    for path in native.iterdir():
        if path.name != "sim":
            (folder / path.name).symlink_to(path)
    for path in (native / "sim").iterdir():
        shutil.copy(path, folder / "sim" / path.name)
    version = series()[branch]
    hide(folder / SIMULATED_CUDA, {name for name, since in cuda_since().items() if since > version})
    hide(folder / SIMULATED_NVML, {name for name, since in nvml_since().items() if since > branch})
    return folder


def make_installation(folder: Path, native: Path, branch: int) -> Path:
    """A folder for PYTHONPATH in which cgpu is as here, with the simulated driver of a series."""
    source = build.ROOT / "src" / "cgpu"
    (folder / "cgpu").mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in {"_native", "__pycache__"}:
            (folder / "cgpu" / path.name).symlink_to(path)
    make_native(folder / "cgpu" / "_native", native, branch)
    return folder


def hide(library: Path, names: Collection[str]) -> None:
    """Have a library without these functions."""
    content = bytearray(library.read_bytes())
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(table, SymbolTableSection)
        symbols: list[Any] = list(table.iter_symbols())
        begin = table["sh_offset"]
    for index, symbol in enumerate(symbols):
        if symbol.name in names:
            place = begin + index * _SYMBOL.size
            name, info, other, _, _, _ = _SYMBOL.unpack_from(content, place)
            _SYMBOL.pack_into(content, place, name, _STB_WEAK << 4 | info & 15, other, 0, 0, 0)
    library.write_bytes(content)
