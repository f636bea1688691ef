"""Fixtures of the native tests: the built libraries, and C compiled on the spot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from native import build
from tests.native.c_compiler import compile_c
from tests.native.entry_driver import DRIVER, PRELUDE, SONAME, Run, lines_of
from tests.native.memory_tenant import SimulatedHost

CompileC = Callable[..., Path]


@pytest.fixture(scope="session")
def native() -> Path:
    """The folder of the built libraries: the tree's, or the one that CGPU_TEST_NATIVE names."""
    folder = Path(os.environ.get("CGPU_TEST_NATIVE", build.DEFAULT_OUT))
    if not (folder / "libcgpu.so").exists():
        pytest.fail(f"no libraries in {folder}: run native/build.py first")
    return folder


@pytest.fixture(scope="session")
def shim(native: Path) -> Path:
    """libcgpu.so, for LD_PRELOAD."""
    return native / "libcgpu.so"


@pytest.fixture
def c_program(tmp_path: Path) -> CompileC:
    """Compile C text: c_program("name", text, **options of compile_c) gives the path of the result."""

    def compile_text(name: str, text: str, **options: object) -> Path:
        source = tmp_path / f"{name}.c"
        source.write_text(text)
        return compile_c(tmp_path / name, [source], **options)  # type: ignore[arg-type]

    return compile_text


@pytest.fixture
def host(tmp_path: Path, native: Path) -> Iterator[SimulatedHost]:
    """A simulated machine of one card, for tenants without an agent."""
    simulated = SimulatedHost.create(tmp_path / "host", native)
    yield simulated
    simulated.close()


@pytest.fixture
def driver(c_program: CompileC) -> Path:
    """A libcuda of a few functions."""
    return c_program("libcuda.so.1", DRIVER, shared=True, flags=[SONAME])


@pytest.fixture
def python(shim: Path) -> Run:
    """Run Python code with the shim preloaded (and more libraries, in order); the lines it printed."""

    def run(code: str, *arguments: Path, preload: Sequence[Path] = (), shimmed: bool = True) -> list[str]:
        libraries = [*preload] or ([shim] if shimmed else [])
        return lines_of([sys.executable, "-c", PRELUDE + code, *map(str, arguments)], libraries)

    return run
