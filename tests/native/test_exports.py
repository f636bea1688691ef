"""The built libraries as files: what they export, and on which machines they load.

They are built here by the release compiler for both architectures, whatever built those in the tree.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from native import build
from tests.native.elf import SharedLibrary
from tests.native.release_builds import releases

BUILD_TIMEOUT_S = 600
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
# A library that is loaded into strangers' processes asks for nothing but the C library.
ALLOWED_NEEDED = {
    "libc.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libm.so.6",
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
}  # fmt: skip


@pytest.fixture(scope="module", name="releases")
def built_releases() -> Path:
    """The folder of release builds, one folder per architecture."""
    return releases()


pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S, func_only=False)


def every_library(test: object) -> object:
    """Run a test for every library and architecture."""
    test = pytest.mark.parametrize("library", build.LIBRARIES, ids=lambda library: library.soname)(test)
    return pytest.mark.parametrize("arch", build.ARCHITECTURES)(test)


@every_library
def test_exports_are_those_of_the_version_script(releases: Path, arch: str, library: build.Library) -> None:
    exports = set(SharedLibrary.read(releases / arch / library.output).exports)
    if library.exports == "hooks":
        assert exports == {*build.hook_names(), *build.ENTRY_NAMES}
    else:
        assert exports
        assert {name for name in exports if not fnmatch.fnmatchcase(name, library.exports)} == set()


@every_library
def test_loads_on_any_glibc_from_2_17(releases: Path, arch: str, library: build.Library) -> None:
    built = SharedLibrary.read(releases / arch / library.output)
    newest = tuple(int(part) for part in build.GLIBC.split("."))
    too_new = {
        version
        for version in built.versions
        if version.startswith("GLIBC_")
        and tuple(int(part) for part in version.removeprefix("GLIBC_").split(".")) > newest
    }
    assert too_new == set()
    assert {version for version in built.versions if not version.startswith("GLIBC_")} == set()
    assert built.needed <= ALLOWED_NEEDED
    assert built.machine == MACHINES[arch]
    assert built.soname == library.soname


@every_library
def test_is_hardened(releases: Path, arch: str, library: build.Library) -> None:
    """Full RELRO (relocations are read-only once the library is loaded), no executable stack."""
    built = SharedLibrary.read(releases / arch / library.output)
    assert (built.relro, built.bind_now, built.executable_stack) == (True, True, False)


def test_names_no_path_of_the_build_machine(releases: Path) -> None:
    for path in releases.glob("*/**/*.so*"):
        assert str(build.ROOT).encode() not in path.read_bytes(), path


def test_same_sources_give_the_same_bytes(releases: Path, tmp_path: Path) -> None:
    """Built once more, in another folder and from nothing."""
    library = next(library for library in build.LIBRARIES if library.soname == "libcgpu.so")
    shutil.copytree(build.NATIVE, tmp_path / "native")
    command = [
        sys.executable,
        str(tmp_path / "native" / "build.py"),
        "--out",
        str(tmp_path / "out"),
        "--only",
        library.output,
    ]
    subprocess.run(command, check=True, capture_output=True)
    once = releases / os.uname().machine / library.output
    assert (tmp_path / "out" / library.output).read_bytes() == once.read_bytes()
