"""Programs for other machines than this one: compiled by ziglang, kept between runs under the digest of their text."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from native import build

COMPILE_TIMEOUT_S = 300


def compile_for(target: str, source: Path, *flags: str) -> Path:
    """A program for a target as zig names it, such as ``x86_64-linux-musl`` or ``aarch64-linux-gnu.2.17``."""
    key = hashlib.sha256("\0".join([target, *flags, source.read_text()]).encode()).hexdigest()[:16]
    program = build.ROOT / "build" / "zig-programs" / f"{source.stem}-{target}-{key}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_name(f"{program.name}.new")
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-O1", "-fno-sanitize=undefined"]
        done = subprocess.run(
            [*command, *flags, str(source), "-o", str(unfinished)],
            capture_output=True, text=True, check=False, timeout=COMPILE_TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        unfinished.rename(program)
    return program
