"""What cuGetProcAddress gives has the signature of the version asked for, and the flag's stream semantics.

Asked over a driver that notes its calls: the function that is given, called, ends in exactly the export that
NVIDIA's driver gives for that name, version and flag, with every argument as it was passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from native import build
from tests.native import abi_driver
from tests.native.abi_driver import ANSWER, OWN, STEP, masks, table
from tests.native.conftest import CompileC

ASK = Path(__file__).with_name("ask_abi.py")
FLAGS = (0, 1, 2)
# A handle of 64 bytes is passed by value; as many entries are read as the count says. test_real_libcuda.py has them.
NOT_CALLED = {"cuIpcOpenMemHandle", "cuIpcOpenMemHandle_v2", "cuMemMapArrayAsync", "cuMemMapArrayAsync_ptsz"}


def versions() -> list[int]:
    """Each at which some name changes, the one before, those of the interface, and one beyond."""
    steps = {version for columns in table().values() for column in columns for version, _ in column}
    return sorted(steps | {version - 10 for version in steps} | {11030, 12000, 13000, 99990})


def expected(name: str, version: int, flags: int) -> str | None:
    """The export that NVIDIA's driver gives."""
    known = [export for since, export in table()[name][flags == 2] if since <= version]
    return known[-1] if known and known[-1] != "-" else None


def questions() -> list[tuple[str, int, int, str | None]]:
    """Every name that leads to a hooked function in some version, in all versions."""
    hooked = set(build.hook_names()) - set(OWN)
    names = [
        name for name, columns in table().items() if any(export in hooked for column in columns for _, export in column)
    ]
    asked = [(name, version, flags) for name in names for version in versions() for flags in FLAGS]
    return [(*question, expected(*question)) for question in asked]


def ask(driver: Path, shim: Path | None, asked: Sequence[tuple[str, int, int, str | None]]) -> list[str]:
    lines = [" ".join(map(str, [name, version, flags, *masks(export or "")])) for name, version, flags, export in asked]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CGPU_")}
    if shim:
        environment["LD_PRELOAD"] = str(shim)
    result = subprocess.run(
        [sys.executable, str(ASK), str(driver)], input="\n".join(lines) + "\n",
        env=environment | {"PYTHONPATH": str(build.ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, ""), f"{result.returncode} {result.stderr} {result.stdout[-300:]}"
    return result.stdout.splitlines()


def wrong(asked: Sequence[tuple[str, int, int, str | None]], answers: Sequence[str]) -> list[str]:
    found = []
    for line in answers:
        number, form, *words = line.split()
        name, version, flags, export = asked[int(number)]
        right = ["none"] if export is None else [str(ANSWER), *_call(export)]
        if words[0] != right[0] or (export and right[1] not in words[1:]):
            found.append(f"{form} {name} {version} {flags}: {words}, not {right}")
    return found


def _call(export: str) -> list[str]:
    return [":".join([export, *(f"{STEP * i & mask:x}" for i, mask in enumerate(masks(export)))])]


@pytest.fixture
def noting(c_program: CompileC) -> Path:
    return abi_driver.build_driver(c_program)


def comparable(asked: list[tuple[str, int, int, str | None]]) -> list[tuple[str, int, int, str | None]]:
    return [question for question in asked if question[3] not in NOT_CALLED]


def test_every_hooked_name_in_every_version_has_that_versions_signature(noting: Path, shim: Path) -> None:
    asked = comparable(questions())
    assert len(asked) > 15_000
    assert {export for *_, export in asked} >= {
        "cuMemPrefetchAsync",
        "cuLaunchKernel_ptsz",
        "cuMemAlloc",
        "cuMemAlloc_v2",
    }
    assert wrong(asked, ask(noting, shim, asked)) == []


def test_a_pointer_of_another_version_or_stream_is_noticed(noting: Path, shim: Path) -> None:
    """The same check with one thing wrong in what is expected."""
    asked = [("cuMemAlloc", 3020, 0, "cuMemAlloc"), ("cuLaunchKernel", 12000, 2, "cuLaunchKernel")]
    assert len(wrong(asked, ask(noting, shim, asked))) == 4
