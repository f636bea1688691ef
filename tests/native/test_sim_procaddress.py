"""The simulated libcuda's exports: all there are, and which of them cuGetProcAddress answers with."""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from native import build
from tests.native.elf import SharedLibrary
from tests.native.sim_driver import SimulatedMachine, use_device

UNTOUCHED = 0x5A5A
NOT_FOUND, INVALID_VALUE, NOT_SUPPORTED = 500, 1, 801
FOUND, SYMBOL_NOT_FOUND, VERSION_NOT_SUFFICIENT = 0, 1, 2
DRIVER_OF = {"550.163.01": 12040, "555.58.02": 12050, "580.65.06": 13000}
# Of Windows, and two that the headers declare and NVIDIA's Linux library does not hand out by name.
EXPORTED_ONLY = {"cuWGLGetDevice", "cuEventCreateFromEGLSync", "cuGetProcAddress_v2_ptsz"}

Rows = dict[str, tuple[list[tuple[int, str]], list[tuple[int, str]]]]


def observed() -> Rows:
    """What NVIDIA's own driver answers: per name, (version, export) for the legacy and the per-thread stream."""
    rows: Rows = {}
    for line in (Path(__file__).parent / "data" / "cuda_proc_address.tsv").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, legacy, per_thread = [*line.split("\t"), ""][:3]
        columns = [
            [(int(version), export) for version, _, export in (word.partition(":") for word in column.split())]
            for column in (legacy.replace("-", ""), per_thread)
        ]
        rows[name] = (columns[0], columns[1] or columns[0])
    return rows


def header_names() -> set[str]:
    """Every function that cuda.h and the interoperability headers of NVIDIA's package declare, in all versions."""
    include = build.nvidia_include()
    preprocess = [*build.Toolchain.zig("x86_64").command, "-E", "-P", "-D__CUDA_API_VERSION_INTERNAL", "-x", "c"]
    text = subprocess.run([*preprocess, str(include / "cuda.h")], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"CUresult\s+(cu\w+)\s*\(", text))
    for header in ("cudaGL.h", "cudaEGL.h", "cudaVDPAU.h"):
        names |= set(re.findall(r"CUresult CUDAAPI (cu\w+)\(", (include / header).read_text()))
    return names


def listed_as_unsupported() -> set[str]:
    text = (build.NATIVE / "simgpu" / "cuda_unsupported.inc").read_text()
    return set(re.findall(r"^SG_UNSUPPORTED(?:_INTEROP)?\((\w+)\)$", text, flags=re.MULTILINE))


def test_every_function_of_nvidias_headers_is_exported(native: Path) -> None:
    exports = set(SharedLibrary.read(native / "sim" / "libcuda.so.1").exports)
    wanted = header_names() | {export for columns in observed().values() for column in columns for _, export in column}
    assert wanted - exports == set()


def test_what_is_listed_as_unsupported_is_not_implemented_elsewhere(native: Path) -> None:
    """The list's definitions are weak symbols; the row of one that an implementation has overtaken is stale."""
    with (native / "sim" / "libcuda.so.1").open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(symbols, SymbolTableSection)
        weak = {
            symbol.name
            for symbol in symbols.iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_WEAK"
        }
    assert listed_as_unsupported() == weak


class Driver:
    """cuGetProcAddress in both forms, by ctypes, in a process that is a client of the simulated machine."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")

    def address(self, export: str) -> int | None:
        return ctypes.cast(getattr(self.library, export), ctypes.c_void_p).value

    def second(self, name: str | None, version: int, flags: int) -> tuple[int, int | None, int]:
        pointer, status = ctypes.c_void_p(UNTOUCHED), ctypes.c_int(-1)
        result = self.library.cuGetProcAddress_v2(
            name.encode() if name is not None else None,
            ctypes.byref(pointer), version, ctypes.c_uint64(flags), ctypes.byref(status),
        )  # fmt: skip
        return result, pointer.value, status.value

    def first(self, name: str, version: int, flags: int) -> tuple[int, int | None]:
        pointer = ctypes.c_void_p(UNTOUCHED)
        result = self.library.cuGetProcAddress(
            name.encode(), ctypes.byref(pointer), version, ctypes.c_uint64(flags)
        )  # fmt: skip
        return result, pointer.value


def expected(rows: list[tuple[int, str]], version: int, driver: int) -> tuple[str | None, int]:
    """The export, and the symbol status, that a driver of that CUDA version answers."""
    reachable = [(since, export) for since, export in rows if since <= driver]
    found = [export for since, export in reachable if since <= version]
    if found:
        return found[-1], FOUND
    return None, VERSION_NOT_SUFFICIENT if reachable else SYMBOL_NOT_FOUND


def compare(driver_version: int) -> list[str]:
    """Every name, at and before each version at which any name changes, and beyond; every flag."""
    driver, wrong, rows = Driver(), [], observed()
    versions = {0, 1999, 99990} | {since for columns in rows.values() for column in columns for since, _ in column}
    versions |= {version - 10 for version in versions}
    for name, (legacy, per_thread) in rows.items():
        for version in sorted(versions):
            for flags in (0, 1, 2):
                export, status = expected(per_thread if flags == 2 else legacy, version, driver_version)
                address = driver.address(export) if export else None
                if driver.second(name, version, flags) != (0, address, status):
                    wrong.append(f"{name} {version} {flags}: not {export}, {status}")
                old = (0, address) if export else (NOT_FOUND, UNTOUCHED)
                if driver.first(name, version, flags) != old:
                    wrong.append(f"cuGetProcAddress {name} {version} {flags}: not {old}")
    return wrong


@pytest.mark.parametrize("driver_version", ["550.163.01", "555.58.02"])
def test_every_name_is_answered_as_nvidias_driver_does(native: Path, tmp_path: Path, driver_version: str) -> None:
    machine = SimulatedMachine.make(native, tmp_path, driver_version=driver_version)
    assert machine.call(compare, DRIVER_OF[driver_version]) == []


def odd_questions() -> dict[str, list[int | None]]:
    driver = Driver()
    answers: dict[str, list[int | None]] = {}
    for name in ("cuNoSuchFunction", "", "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cudbgMain", *EXPORTED_ONLY):
        answers[name] = [*driver.second(name, 12000, 0), *driver.first(name, 12000, 0)]
    answers["flags 3"] = [*driver.second("cuInit", 12000, 3), *driver.first("cuInit", 12000, 3)]
    answers["null name"] = [driver.second(None, 12000, 0)[0]]
    answers["null pointer"] = [driver.library.cuGetProcAddress_v2(b"cuInit", None, 12000, ctypes.c_uint64(0), None)]
    pointer = ctypes.c_void_p()
    answers["no status"] = [
        driver.library.cuGetProcAddress_v2(b"cuInit", ctypes.byref(pointer), 12000, ctypes.c_uint64(0), None),
        int(pointer.value == driver.address("cuInit")),
    ]
    return answers


def test_unknown_names_and_bad_arguments(native: Path, tmp_path: Path) -> None:
    answers = SimulatedMachine.make(native, tmp_path).call(odd_questions)
    assert answers.pop("flags 3") == [INVALID_VALUE, UNTOUCHED, -1, INVALID_VALUE, UNTOUCHED]
    assert answers.pop("null name") == answers.pop("null pointer") == [INVALID_VALUE]
    assert answers.pop("no status") == [0, 1]
    for name, answer in answers.items():
        assert answer == [0, None, SYMBOL_NOT_FOUND, NOT_FOUND, UNTOUCHED], name


def newer_names() -> list[list[int | str]]:
    driver = Driver()
    return [
        [name, version, int(driver.second(name, version, flags)[1] == driver.address(export))]
        for name, version, flags, export in [
            ("cuEventElapsedTime", 12070, 0, "cuEventElapsedTime"),
            ("cuEventElapsedTime", 12080, 0, "cuEventElapsedTime_v2"),
            ("cuCtxSynchronize", 12090, 0, "cuCtxSynchronize"),
            ("cuCtxSynchronize", 13000, 0, "cuCtxSynchronize_v2"),
            ("cuMemcpyBatchAsync", 12080, 2, "cuMemcpyBatchAsync_ptsz"),
            ("cuMemcpyBatchAsync", 13000, 2, "cuMemcpyBatchAsync_v2_ptsz"),
            ("cuMemGetMemPool", 99990, 0, "cuMemGetMemPool"),
        ]
    ]


def test_names_of_later_releases_follow_nvidias_typedefs(native: Path, tmp_path: Path) -> None:
    machine = SimulatedMachine.make(native, tmp_path, driver_version="580.65.06")
    assert [row for row in machine.call(newer_names) if not row[2]] == []


def call_unsupported() -> dict[str, int]:
    """Every unsupported export, with arguments that a careless implementation would follow."""
    use_device()
    driver = Driver()
    nulls = [ctypes.c_void_p(0)] * 8
    return {name: getattr(driver.library, name)(*nulls) for name in sorted(listed_as_unsupported())}


def test_unsupported_functions_say_so(native: Path, tmp_path: Path) -> None:
    answers = SimulatedMachine.make(native, tmp_path).call(call_unsupported)
    assert len(answers) > 100
    assert set(answers.values()) == {NOT_SUPPORTED}


def call_with_nulls() -> list[str]:
    """Every implemented export with null arguments: an answer, never a crash and never a false success."""
    use_device()
    driver, odd = Driver(), []
    harmless = re.compile(r"cu(Init|Ctx|Device|Driver|Mem(Free|Alloc|cpy|set)|Thread|Stream|Event)")
    for name in sorted(header_names() - listed_as_unsupported()):
        if harmless.match(name) or not hasattr(driver.library, name):
            continue
        result = getattr(driver.library, name)(*[ctypes.c_void_p(0)] * 10)
        if result == 0:
            odd.append(name)
    return odd


def test_null_arguments_are_refused(native: Path, tmp_path: Path) -> None:
    assert SimulatedMachine.make(native, tmp_path).call(call_with_nulls) == []
