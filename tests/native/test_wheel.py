"""The wheel: its tag, and the libraries in it, for both architectures."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from native import build
from tests.native.elf import SharedLibrary
from tests.native.test_exports import BUILD_TIMEOUT_S, MACHINES


@pytest.mark.timeout(BUILD_TIMEOUT_S)
@pytest.mark.parametrize("arch", build.ARCHITECTURES)
def test_wheel_has_the_libraries_of_its_architecture(arch: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "dist")]
    environment = os.environ | {"CGPU_BUILD_ARCH": arch}
    subprocess.run(command, cwd=build.ROOT, env=environment, check=True, capture_output=True, text=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith(f"-py3-none-manylinux_2_17_{arch}.manylinux2014_{arch}.whl")

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "content")
        names = set(archive.namelist())
    native = {name.removeprefix("cgpu/_native/") for name in names if name.startswith("cgpu/_native/")}
    assert native == {library.output for library in build.LIBRARIES}
    for output in native:
        assert SharedLibrary.read(tmp_path / "content" / "cgpu" / "_native" / output).machine == MACHINES[arch]
    assert {
        name for name in names if name.startswith(("tests/", "native/")) or name.endswith((".c", ".h", ".pyc"))
    } == set()
    assert "cgpu/sim/profiles/t4.toml" in names
