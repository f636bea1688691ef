"""The libraries in the oldest and the newest C library that the Debian archive carries.

A program that was linked for glibc 2.17 is a tenant by `cgpu run`, started by each release's own loader with that
release's libraries. That nothing of ours asks for more than 2.17 is checked by tests/native/test_exports.py.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cgpu.adapters.native import ARBITER, SIMULATED_CUDA, SIMULATION_CONTROL, native_library
from cgpu.model.units import MIB
from native import build
from tests.integration.conftest import Node
from tests.native import debian_archive
from tests.native.memory_tenant import OUT_OF_MEMORY
from tests.native.zig_programs import compile_for

CLIENT = Path(__file__).parents[1] / "native" / "clients" / "series.c"
MACHINE = os.uname().machine
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[MACHINE]
SUITES = {"oldest": ("bullseye", "bookworm", "trixie"), "newest": ("experimental", "sid", "trixie")}
"""The first that is to be had counts. Bullseye's is 2.31, which still has libdl and libpthread of their own."""
OVER_BYTES, WITHIN_BYTES = 1024 * MIB, 256 * MIB


def root_of(end: str) -> Path:
    """The folder of a C library; skips where none is to be had."""
    found = None
    for suite in SUITES[end]:
        folder = debian_archive.CACHE / f"{suite}-{ARCHITECTURE}"
        found = found or debian_archive.fetch(folder, suite, ("libc6",), architecture=ARCHITECTURE)
    return next(debian_archive.needed(found, "glibc").rglob("libc.so.6")).parent


def minor_version(folder: Path) -> int:
    """The minor version of a C library, which is a program that tells it."""
    words = subprocess.run(
        [loader_of(folder), "--library-path", folder, folder / "libc.so.6"], capture_output=True, text=True, check=True
    ).stdout
    return int(words.split("version 2.")[1].split(".")[0].split()[0])


def loader_of(folder: Path) -> Path:
    """The loader beside a C library."""
    return next(path for path in folder.glob("ld-linux-*.so.*") if path.exists())


@pytest.mark.parametrize("end", SUITES)
def test_a_tenant_on_another_glibc(node: Node, end: str) -> None:
    folder = root_of(end)
    client = compile_for(f"{MACHINE}-linux-gnu.{build.GLIBC}", CLIENT, "-ldl")
    libraries = f"{folder}:{native_library(SIMULATED_CUDA).parent}"
    words = ("--library-path", libraries, str(client), str(OVER_BYTES), str(WITHIN_BYTES))
    others = (str(native_library(ARBITER)), str(native_library(SIMULATION_CONTROL)))
    told = node.cgpu(
        "run", "--memory", "512MiB", "--", str(loader_of(folder)), *words, *others, input="cuMemAlloc_v2\n"
    )
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()
    assert lines[0] == "cuMemAlloc_v2 1 1 0"
    values = {key: int(value) for key, _, value in (line.rpartition(" ") for line in lines[1:])}
    assert values["glibc_minor"] == minor_version(folder)
    assert values["over cuMemAlloc_v2"] == OUT_OF_MEMORY
    assert values["within cuMemAlloc_v2"] == values["cuLaunchKernel"] == values["cuCtxSynchronize"] == 0
    assert values["total"] == values["nvml_total"] == 512 * MIB


def test_the_ends_are_apart() -> None:
    """They are what they are taken for."""
    assert minor_version(root_of("oldest")) < minor_version(root_of("newest"))
