"""The shim's entry over NVIDIA's own libcuda: everything that can be asked, asked with and without it.

No GPU is needed: cuGetProcAddress works before cuInit, and after one that found no device. The shim
must give its own function exactly where it hooks the export that the driver would give, and leave
every other pointer, status and error as it is.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import build
from tests.native import debian_nvidia
from tests.native.elf import SharedLibrary
from tests.parity.hook_list import TELLING, excused, variantless

NAMES = Path(__file__).parent / "data" / "cuda_proc_address.tsv"
ASK = Path(__file__).with_name("ask_libcuda.py")
SUITES = debian_nvidia.SUITES


def table() -> Iterator[tuple[str, str, str]]:
    """Rows of the data file: name, exports by version, the same for per-thread streams."""
    for line in NAMES.read_text().splitlines():
        if not line.startswith("#"):
            name, plain, per_thread = line.split("\t")
            yield name, plain, per_thread or plain


def libcuda(suite: str) -> Path:
    """NVIDIA's libcuda from a Debian suite; skips where it is not to be had."""
    root = debian_nvidia.fetch(suite)
    if root is None:
        pytest.skip(f"NVIDIA's libcuda of Debian {suite} is not to be had here (archive changed, or no network)")
    return debian_nvidia.libcuda(root)


@functools.cache
def ask(library: Path, preload: Path | None) -> list[str]:
    """All answers of a libcuda, asked in a process of its own."""
    names = {name for name, _, _ in table()} | set(SharedLibrary.read(library).exports)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CGPU_")}
    if preload:
        environment["LD_PRELOAD"] = str(preload)
    result = subprocess.run(
        [sys.executable, str(ASK), str(library)],
        input="\n".join(sorted(name for name in names if name.startswith("cu"))),
        env=environment, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert result.stderr == ""
    return result.stdout.splitlines()


@pytest.mark.parametrize("suite", SUITES)
def test_ours_exactly_where_hooked(suite: str, shim: Path) -> None:
    library = libcuda(suite)
    hooked = set(build.hook_names())
    ours = SharedLibrary.read(shim).exports
    place = {f"{library.name}+{offset:#x}": name for name, offset in SharedLibrary.read(library).exports.items()}
    wrong: list[str] = []
    replaced: set[str] = set()
    for plain, shimmed in zip(ask(library, None), ask(library, shim), strict=True):
        question, _, where = plain.rpartition(" ")
        export = place.get(where)
        if export in hooked:
            replaced.add(export)
            where = f"{shim.name}+{ours[export]:#x}"
        if shimmed != f"{question} {where}":
            wrong.append(f"{plain}\n    became {shimmed}")
    assert not wrong, f"{len(wrong)} answers are wrong, among them:\n" + "\n".join(wrong[:20])
    assert replaced == hooked & set(place.values())
    assert len(replaced) > 200


@pytest.mark.parametrize("suite", SUITES)
def test_no_two_exports_share_an_address(suite: str) -> None:
    """The answers of cuGetProcAddress are exchanged by address; what that rests on, for known drivers."""
    functions = [offset for name, offset in SharedLibrary.read(libcuda(suite)).exports.items() if name.startswith("cu")]
    assert len(set(functions)) == len(functions)


@pytest.mark.parametrize("suite", SUITES)
def test_every_export_that_allocates_or_works_is_hooked_or_excused(suite: str) -> None:
    """The driver has exports that its header does not declare any more, or not there."""
    exports = {name for name in SharedLibrary.read(libcuda(suite)).exports if name.startswith("cu")}
    hooked = set(build.hook_names())
    assert {name for name in exports if TELLING.search(name)} - hooked - set(excused()) == set()
    bases = {variantless(name) for name in hooked}
    assert {name for name in exports if variantless(name) in bases} - hooked == set()


def export_at(steps: str, version: int) -> str:
    """The export that a column of the data file names for a version; "-" for none."""
    known = [step.split(":")[1] for step in steps.split() if step != "-" and int(step.split(":")[0]) <= version]
    return known[-1] if known else "-"


@pytest.mark.parametrize("suite", SUITES)
def test_table_agrees_with_the_driver(suite: str) -> None:
    """The committed table, which other tests take as NVIDIA's word, is what this driver answers."""
    library = libcuda(suite)
    place = {f"{library.name}+{offset:#x}": name for name, offset in SharedLibrary.read(library).exports.items()}
    rows = {name: (plain, plain, per_thread) for name, plain, per_thread in table()}
    answers = [line.split() for line in ask(library, None)]
    own_version = max(int(version) for how, _, version, *_ in answers if how == "after-v2")
    wrong = []
    for how, name, version, flags, _, _, where in answers:
        if how == "v2" and name in rows and int(flags) <= 2:  # larger flags are an error
            expected = export_at(rows[name][int(flags)], min(int(version), own_version))
            if place.get(where, where) != expected:
                wrong.append(f"{name} {version} {flags}: {where} ({place.get(where)}), table: {expected}")
    assert not wrong, "\n".join(wrong[:20])


def test_some_version_is_to_be_had() -> None:
    """Where tests have to be complete, at least one of the three real drivers took part."""
    if os.environ.get("CI") != "true":
        pytest.skip("only demanded in continuous integration")
    assert any(debian_nvidia.fetch(suite) for suite in SUITES)
