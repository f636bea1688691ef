"""This installation as a tree of files that runs by itself: package, libraries it needs, and a way to start it.

The tree is a virtual environment (https://peps.python.org/pep-0405/) without pip: ``pyvenv.cfg``, a link to
the Python that runs now, and the installed files, taken from where pip put them. So it stays as it is
whatever becomes of the environment that it was copied from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Final

from cgpu import __version__
from cgpu.adapters.host_files import TreeFile
from cgpu.errors import StateError

NEEDED: Final = ("nvidia-ml-py", "PyYAML", "tomlkit")
"""Distributions without which it does not run. A test compares them with pyproject.toml."""

OPTIONAL: Final = ("mfusepy",)
"""Carried along where they are: of the extras, the one that a node uses."""

COMMAND: Final = PurePosixPath("bin/cgpu")
PYTHON: Final = PurePosixPath("bin/python")

# Through the link that leads to this version, but from then on in this version's own folder: what a running
# program imports late is then of the version that it began with, whichever the link leads to by then.
_LAUNCHER: Final = """\
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here/python" -I -m cgpu "$@"
"""
# The same for those who start this Python through the link themselves, as cgpu-runtime does. A line that begins with
# `import` is executed: https://docs.python.org/3/library/site.html
_OWN_FOLDER: Final = "import os, sys; sys.path[:] = [os.path.realpath(path) for path in sys.path]\n"
_HASH_DIGITS: Final = 12
_COMPILED: Final = "__pycache__"


@dataclass(frozen=True, slots=True)
class Program:
    """The whole tree. Two with the same name are the same, byte for byte."""

    version: str
    files: tuple[TreeFile, ...]

    @property
    def name(self) -> str:
        """Such as ``0.2.0-1a2b3c4d5e6f``: the version, and the hash of everything in it."""
        total = hashlib.sha256()
        for file in sorted(self.files, key=lambda file: file.path):
            row = f"{file.path}\0{file.mode:o}\0{file.link}\0{len(file.content)}\0"
            total.update(row.encode() + file.content)
        return f"{self.version}-{total.hexdigest()[:_HASH_DIGITS]}"


def running_program() -> Program:
    """What runs now. Raises StateError where a library's files cannot be told."""
    python = _python()
    packages = PurePosixPath("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    config = f"home = {python.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n"
    tree = [
        TreeFile(PurePosixPath("pyvenv.cfg"), config.encode()),
        TreeFile(PYTHON, link=str(python)),
        TreeFile(COMMAND, _LAUNCHER.encode(), 0o755),
        TreeFile(packages / "cgpu-own-folder.pth", _OWN_FOLDER.encode()),
        *(_placed(packages / "cgpu" / path, source) for path, source in _package()),
    ]
    for name in NEEDED:
        tree += _library(name, packages)
    for name in OPTIONAL:
        if _is_installed(name):
            tree += _library(name, packages)
    return Program(__version__, tuple(tree))


def _python() -> Path:
    """The interpreter itself, not a virtual environment's link to it."""
    python = Path(sys.base_exec_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return python if python.is_file() else Path(sys.executable).resolve()


def _package() -> Iterator[tuple[PurePosixPath, Path]]:
    root = Path(str(files("cgpu")))
    for source in sorted(root.rglob("*")):
        relative = source.relative_to(root)
        if source.is_file() and _COMPILED not in relative.parts:
            yield PurePosixPath(relative), source


def _library(name: str, packages: PurePosixPath) -> list[TreeFile]:
    """The files that pip has noted for a distribution, without programs and compiled code."""
    try:
        noted = importlib.metadata.files(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise StateError(f"{name} is not installed", "install cgpu with pip, which brings it") from error
    paths = [path for path in noted or () if ".." not in path.parts and _COMPILED not in path.parts]
    if not paths:
        raise StateError(
            f"nothing tells which files belong to {name}",
            "install cgpu into an environment of its own: python3 -m venv DIR; DIR/bin/pip install cgpu",
        )
    return [_placed(packages / path, Path(str(path.locate()))) for path in paths]


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _placed(path: PurePosixPath, source: Path) -> TreeFile:
    try:
        executable = source.stat().st_mode & stat.S_IXUSR
        return TreeFile(path, source.read_bytes(), 0o755 if executable else 0o644)
    except OSError as error:
        raise StateError(f"{source}: {error.strerror}", "install cgpu again") from error
