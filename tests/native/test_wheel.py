"""The wheel: its tag, and the libraries and programs in it, for both architectures."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

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
        modes = {info.filename: info.external_attr >> 16 & 0o777 for info in archive.infolist()}
    native = {name.removeprefix("cgpu/_native/") for name in names if name.startswith("cgpu/_native/")}
    libraries, programs = ({part.output for part in parts} for parts in (build.LIBRARIES, build.PROGRAMS))
    assert native == libraries | programs
    assert {modes[f"cgpu/_native/{output}"] for output in programs} == {0o755}  # pip keeps the executable bits
    for output in programs:
        with (tmp_path / "content" / "cgpu" / "_native" / output).open("rb") as file:
            elf = ELFFile(file)
            assert elf["e_machine"] == MACHINES[arch]
            assert "PT_INTERP" not in {segment["p_type"] for segment in elf.iter_segments()}, "not static"
    for output in libraries:
        assert SharedLibrary.read(tmp_path / "content" / "cgpu" / "_native" / output).machine == MACHINES[arch]
    assert {
        name for name in names if name.startswith(("tests/", "native/")) or name.endswith((".c", ".h", ".pyc"))
    } == set()
    assert "cgpu/sim/profiles/t4.toml" in names
    chart = build.ROOT / "deploy" / "helm" / "cgpu"
    assert {str(path.relative_to(chart)) for path in chart.rglob("*") if path.is_file()} == {
        name.removeprefix("cgpu/k8s/chart/") for name in names if name.startswith("cgpu/k8s/chart/")
    }
