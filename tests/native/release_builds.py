"""Release builds of the libraries for every architecture, made once and shared by the tests that look at them."""

from __future__ import annotations

import fcntl
from pathlib import Path

from native import build


def releases(*architectures: str) -> Path:
    """The folder of them, one folder per architecture, all when none is named; no two processes build at once."""
    folder = build.ROOT / "build" / "checked"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arch in architectures or build.ARCHITECTURES:
            for library in build.LIBRARIES:
                build.build(library, folder / arch, build.Toolchain.zig(arch))
    return folder
