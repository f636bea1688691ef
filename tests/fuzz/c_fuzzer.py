"""The fuzzers of native/fuzz: built with the machine's compiler under its sanitizers, and run.

A target is one file ``native/fuzz/fuzz_NAME.c``. Its first lines name the sources that it is linked with, as those
of the tests in native/tests do.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from native import build
from tests.fuzz import corpora
from tests.fuzz.outcome import Outcome
from tests.native.c_compiler import sanitizer_compiler

FOLDER: Final = build.NATIVE / "fuzz"
TARGETS: Final = tuple(sorted(path.stem.removeprefix("fuzz_") for path in FOLDER.glob("fuzz_*.c")))
SANITIZERS: Final = "address,undefined"
_ENGINE: Final = tuple(FOLDER / f"{name}.c" for name in ("engine", "coverage", "mutate"))
_HEADER_LINES: Final = 6
_FOLDERS: Final = ("fuzz", "shim", "simgpu", "arbiter", "programs")
_COMMON: Final = (*build.LANGUAGE, *build.WARNINGS, '-DCGPU_VERSION="fuzz"')
_ENGINE_FLAGS: Final = ("-O2", "-g")
# As calls, comparisons of strings and memory pass by the sanitizer, which tells the engine what was compared.
_TARGET_FLAGS: Final = (
    "-O1", "-g", "-fno-omit-frame-pointer", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all",
    "-fsanitize-coverage=trace-pc,trace-cmp", "-fno-builtin-memcmp", "-fno-builtin-strcmp", "-fno-builtin-strncmp",
)  # fmt: skip
_ENVIRONMENT: Final = {
    # An image may ask for any amount of memory; no more than this is given.
    "ASAN_OPTIONS": "detect_leaks=1:handle_abort=1:allocator_may_return_null=1:max_allocation_size_mb=64",
    # What it finds it does not tell the engine; an abort() is caught by the other one, which does.
    "UBSAN_OPTIONS": "print_stacktrace=1:abort_on_error=1",
}
_GRACE_S: Final = 60  # for the corpus, and for a report's symbols


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to be planted into a source below native/."""

    source: str
    right: str
    wrong: str


def compiler() -> tuple[str, ...] | None:
    """The compiler of targets, or None where there is none with the sanitizers."""
    return sanitizer_compiler(SANITIZERS)


def build_target(name: str, folder: Path, fault: Fault | None = None) -> Path:
    """Build a target into the folder, with a fault if one is given. Raises SystemExit with the compiler's words."""
    command = compiler()
    assert command is not None
    target = FOLDER / f"fuzz_{name}.c"
    includes = [f"-I{build.NATIVE / part}" for part in _FOLDERS]
    compiling = [*command, *_COMMON, *includes, *build.include_flags([])]
    sources = [_planted(source, folder, fault) for source in _sources(target)]
    work = build.ROOT / "build" / "fuzz" / "objects"
    work.mkdir(parents=True, exist_ok=True)
    stamp = f"-DCGPU_FUZZ_SOURCES={_stamp()}"
    objects = [build.compile_object([*compiling, stamp, *_ENGINE_FLAGS], source, work) for source in _ENGINE]
    objects += [build.compile_object([*compiling, stamp, *_TARGET_FLAGS], source, work) for source in sources]
    program = folder / name
    linking = [*command, f"-fsanitize={SANITIZERS}", "-pthread", *map(str, objects), "-o", str(program)]
    linked = subprocess.run([*linking, "-ldl", "-lm", "-lrt"], capture_output=True, text=True)
    if linked.returncode != 0:
        raise SystemExit(linked.stderr)
    return program


def fuzz(name: str, program: Path, seconds: float, crashes: Path, *, seed: int = 1, grow: bool = False) -> Outcome:
    """Run a built target for that long over its corpus; with ``grow`` over what long runs have found, too."""
    crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        seeds = Path(scratch, "seeds")
        seeds.mkdir()
        for title, content in corpora.kept(name).items():
            (seeds / title).write_bytes(content)
        folders = [str(seeds)]
        options = [f"-seconds={seconds}", f"-seed={seed}", f"-crashes={crashes}"]
        if grow:
            folders.append(str(corpora.grown(name)))
            options.append(f"-keep={corpora.grown(name)}")
        before = set(crashes.iterdir())
        result = subprocess.run(
            [program, *options, *folders], env=os.environ | _ENVIRONMENT, cwd=scratch, capture_output=True, text=True,
            errors="replace", timeout=seconds * 2 + _GRACE_S,
        )  # fmt: skip
    if result.returncode == 0:
        return Outcome(name, **json.loads(result.stdout.splitlines()[-1]))
    found = sorted(set(crashes.iterdir()) - before)
    return Outcome(name, seconds, 0, 0, 0, found[0] if found else crashes, result.stdout + result.stderr)


def _sources(target: Path) -> list[Path]:
    header = "\n".join(target.read_text().splitlines()[:_HEADER_LINES])
    named = " ".join(re.findall(r"^// sources: *(.*)$", header, re.MULTILINE)).split()
    return [target, *(build.NATIVE / name for name in named)]


def _planted(source: Path, folder: Path, fault: Fault | None) -> Path:
    """The source, or a copy of it with the fault."""
    if fault is None or source != build.NATIVE / fault.source:
        return source
    text = source.read_text()
    assert text.count(fault.right) == 1, f"{fault.source} has changed: the fault cannot be planted"
    copy = folder / source.name
    copy.write_text(text.replace(fault.right, fault.wrong))
    return copy


@functools.cache
def _stamp() -> str:
    """A digest of all C, since a target may include any of it: an object of other sources is none of ours."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(path for pattern in ("*.c", "*.h", "*.def", "*.inc") for path in build.NATIVE.rglob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
