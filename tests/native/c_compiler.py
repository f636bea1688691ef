"""Compiling C in tests: with the machine's compiler where there is one, else with ziglang's."""

from __future__ import annotations

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
    command = [
        *compiler, *build.LANGUAGE, "-fvisibility=default", "-O1", "-g", *build.WARNINGS, *flags,
        *build.include_flags(list(sources)), *(["-shared"] if shared else []), *map(str, sources), "-o", str(output),
        *libraries, "-ldl", "-lrt", "-lm",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    assert result.returncode == 0, result.stderr
    return output


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
