"""The C unit tests of native/tests, each built and run plainly and under the sanitizers.

A test is a program that exits 0, or says what failed. Among its first lines it names the sources that
it is linked with, below native/, and may opt out of the sanitizers, ask to run alone because it
measures time, or opt out of an emulated processor (test_other_processor.py), which has no ptrace and is slow:

    // sources: shim/account.c shim/region.c
    // sanitizers: no
    // timing: yes
    // emulated: no
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from native import build
from tests.native.c_compiler import compile_c, sanitizer_compiler

HEADER_LINES = 10
RUN_TIMEOUT_S = 120
VARIANTS = {"plain": "", "asan+ubsan": "address,undefined", "tsan": "thread"}
TESTS = sorted((build.NATIVE / "tests").glob("test_*.c"))


@dataclass(frozen=True)
class Unit:
    """What a test's header says."""

    sources: tuple[Path, ...]
    sanitizers: bool
    timing: bool
    emulated: bool

    @classmethod
    def read(cls, test: Path) -> Unit:
        """Read the header lines of a test."""
        header = "\n".join(test.read_text().splitlines()[:HEADER_LINES])
        named = re.search(r"^// sources: *(.*)$", header, re.MULTILINE)
        sources = tuple(build.NATIVE / name for name in named[1].split()) if named else ()
        return cls(
            (test, *sources),
            sanitizers=not re.search(r"^// sanitizers: *no\b", header, re.MULTILINE),
            timing=bool(re.search(r"^// timing: *yes\b", header, re.MULTILINE)),
            emulated=not re.search(r"^// emulated: *no\b", header, re.MULTILINE),
        )


@functools.cache
def fixed_addresses() -> tuple[str, ...]:
    """A prefix that turns address randomisation off, where that is allowed.

    Older thread sanitizers know a smaller address space than newer kernels randomise over; and the
    default filter of container runtimes forbids to turn it off.
    """
    prefix = (shutil.which("setarch") or "setarch", "-R")
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    return prefix


def cases() -> Iterator[ParameterSet]:
    """Every test in every variant that it takes part in."""
    for test in TESTS:
        unit = Unit.read(test)
        marks = [pytest.mark.timing] if unit.timing else []
        for variant in VARIANTS:
            if variant == "plain" or unit.sanitizers:
                yield pytest.param(test, variant, marks=marks, id=f"{test.stem}-{variant}")


@pytest.mark.parametrize(("test", "variant"), list(cases()))
def test_unit(test: Path, variant: str, tmp_path: Path) -> None:
    sanitizer = VARIANTS[variant]
    compiler, flags = None, []
    if sanitizer:
        compiler = sanitizer_compiler(sanitizer)
        if compiler is None:
            reason = f"no compiler with -fsanitize={sanitizer} (Debian: apt-get install gcc libc6-dev)"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
        flags = [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    wrapper = fixed_addresses() if sanitizer == "thread" else ()
    program = compile_c(tmp_path / test.stem, Unit.read(test).sources, flags=flags, compiler=compiler)
    environment = os.environ | {
        "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    result = subprocess.run(
        [*wrapper, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )
    assert result.returncode == 0, f"exit {result.returncode}\n{result.stdout}{result.stderr}"


def test_every_unit_names_sources_that_exist() -> None:
    missing = {(test.name, source.name) for test in TESTS for source in Unit.read(test).sources if not source.exists()}
    assert not missing
