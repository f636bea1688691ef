"""The shim and the simulated driver under a sanitizer, as a program finds them by LD_PRELOAD and LD_LIBRARY_PATH."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from native import build
from tests.native.c_compiler import sanitizer_compiler

LIBRARIES: Final = ("libcgpu.so", "sim/libcuda.so.1")
# Not dlsym and what goes with it: a sanitizer's runtime looks with them, before it can be told of anything, for the
# functions that it stands in front of. Programs find the driver's names by being linked with it.
_EXPORTS: Final = "cu*"


@dataclass(frozen=True, slots=True)
class Sanitized:
    """A folder of libraries like src/cgpu/_native."""

    folder: Path
    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    runtime: Path
    """Of the sanitizer: first of what is preloaded into a program that was not built with it."""

    @property
    def preload(self) -> str:
        """For LD_PRELOAD."""
        return f"{self.runtime}:{self.folder / 'libcgpu.so'}"


def build_sanitized(folder: Path, sanitizer: str) -> Sanitized:
    """Build the libraries with a -fsanitize= value; skips where no compiler can (fails in CI)."""
    compiler = sanitizer_compiler(sanitizer)
    if compiler is None:
        reason = f"no compiler with -fsanitize={sanitizer} (Debian: apt-get install gcc libc6-dev)"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    flags = ("-O0", "-g", "-fno-omit-frame-pointer", f"-fsanitize={sanitizer}")
    toolchain = build.Toolchain("sanitized", compiler, flags)
    for library in build.LIBRARIES:
        if library.output in LIBRARIES:
            build.build(replace(library, exports=_EXPORTS), folder, toolchain)
    return Sanitized(folder, compiler, flags, _runtime(compiler, sanitizer))


def _runtime(compiler: tuple[str, ...], sanitizer: str) -> Path:
    name = {"address": "asan", "thread": "tsan"}[sanitizer]
    asked = [*compiler, f"-print-file-name=lib{name}.so"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()).resolve()
