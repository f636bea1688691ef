"""Compiling C in tests: with the machine's compiler where there is one, else with ziglang's."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from native import build

ZIG = (sys.executable, "-m", "ziglang", "cc", "-target", f"{os.uname().machine}-linux-gnu.{build.GLIBC}")
# zig checks undefined behaviour in every unoptimised build; here that is asked for, not implied.
ZIG_PLAIN = (*ZIG, "-fno-sanitize=undefined")
COMPILE_TIMEOUT_S = 120
LIBRARY_FOLDERS = tuple(build.NATIVE / name for name in ("shim", "arbiter", "simgpu"))


def machine_compiler() -> str | None:
    """The machine's own C compiler, or None."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def compile_c(
    output: Path,
    sources: Sequence[Path],
    *,
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
    shared: bool = False,
    compiler: Sequence[str] | None = None,
) -> Path:
    """Compile and link C sources into a program (or library) and return its path.

    Headers of native/ and NVIDIA's are found; warnings are errors. Raises AssertionError with the
    compiler's own words.
    """
    if compiler is None:
        own = machine_compiler()
        compiler = (own,) if own else ZIG_PLAIN
    compiling = [*compiler, *build.LANGUAGE, "-fvisibility=default", "-O1", "-g", *build.WARNINGS, *flags]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        inputs = list(pool.map(lambda source: _object_of(compiling, source), sources))
    command = [
        *compiling, *build.include_flags(list(sources)), *(["-shared"] if shared else []), *map(str, inputs),
        "-o", str(output), *libraries, "-ldl", "-lrt", "-lm",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    assert result.returncode == 0, result.stderr
    return output


def _object_of(command: Sequence[str], source: Path) -> Path:
    """A library's source as an object that tests share; a test's own source as it is."""
    if source.parent not in LIBRARY_FOLDERS:
        return source
    work = build.ROOT / "build" / "tests"
    work.mkdir(parents=True, exist_ok=True)
    try:
        return build.compile_object([*command, *build.include_flags([source])], source, work)
    except SystemExit as error:
        raise AssertionError(str(error)) from error


@functools.cache
def sanitizer_compiler(sanitizer: str) -> tuple[str, ...] | None:
    """A compiler that can build and run a program with this -fsanitize= value, or None."""
    own = machine_compiler()
    if own is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        program.with_suffix(".c").write_text("int main(void) { return 0; }\n")
        command = [own, f"-fsanitize={sanitizer}", str(program.with_suffix(".c")), "-o", str(program)]
        works = subprocess.run(command, capture_output=True, check=False, timeout=COMPILE_TIMEOUT_S).returncode == 0
    return (own,) if works else None
