"""Files of the host that we place, edit and take away: planned as values first, then done or only told."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cgpu.errors import StateError

UNFINISHED: Final = "cgpu-new"
"""How the names of files end that are being written: never .json, .conf or .toml, so nobody reads them."""

_FOLDER_MODE: Final = 0o755  # whatever the umask: a program is for everybody


@dataclass(frozen=True, slots=True)
class Write:
    """A file with this content. ``mode`` None: as it is, or 0644 when it is new."""

    path: Path
    content: bytes
    mode: int | None = None

    def is_done(self) -> bool:
        """Whether the file is so already."""
        try:
            same = self.path.read_bytes() == self.content
            return same and self.mode in (None, self.path.stat().st_mode & 0o7777)
        except OSError:
            return False

    def do(self) -> None:
        """Write it, with the folders above it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, self.content, self.mode)

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    path: Path
    target: str

    def is_done(self) -> bool:
        """Whether it is there and leads there."""
        return self.path.is_symlink() and str(self.path.readlink()) == self.target

    def do(self) -> None:
        """Make it, in the place of what has its name; at every instant one of the two is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.{UNFINISHED}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.target)
        temporary.replace(self.path)
        _sync_folder(self.path.parent)

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file below a folder: bytes with a mode, or a link."""

    path: PurePosixPath
    content: bytes = b""
    mode: int = 0o644
    link: str = ""  # where it leads, if it is one

    def is_in(self, folder: Path) -> bool:
        """Whether it is there, and is so."""
        path = folder / self.path
        if self.link:
            return path.is_symlink() and str(path.readlink()) == self.link
        return Write(path, self.content, self.mode).is_done()


@dataclass(frozen=True, slots=True)
class PlaceTree:
    """A folder with these files, and Python's compiled code for them. It is whole, or not there."""

    path: Path
    files: tuple[TreeFile, ...]

    def is_done(self) -> bool:
        """Whether every file is there and is so. Other files do not count."""
        return all(file.is_in(self.path) for file in self.files)

    def do(self) -> None:
        """Make it beside its place and rename it; one that is damaged goes."""
        import compileall

        if not self.path.parent.is_dir():
            self.path.parent.mkdir(parents=True)
            self.path.parent.chmod(_FOLDER_MODE)
        new, old = (self.path.with_name(f".{self.path.name}.{os.getpid()}.{part}{UNFINISHED}") for part in ("", "old-"))
        Remove(new, tree=True).do()
        for file in self.files:
            _place(new, file)
        # Its own user may not be able to write there later, and would then compile at every start.
        compileall.compile_dir(new, maxlevels=99, quiet=2, stripdir=str(new), prependdir=str(self.path))
        for folder, _, _ in os.walk(new):
            Path(folder).chmod(_FOLDER_MODE)
            _sync_folder(Path(folder))
        if self.path.is_dir():
            self.path.rename(old)
        new.rename(self.path)
        _sync_folder(self.path.parent)
        Remove(old, tree=True).do()

    def __str__(self) -> str:
        return f"write {self.path} ({len(self.files)} files)"


def _place(folder: Path, file: TreeFile) -> None:
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.link:
        path.symlink_to(file.link)
        return
    with path.open("xb") as target:
        target.write(file.content)
        os.fchmod(target.fileno(), file.mode)
        target.flush()
        os.fsync(target.fileno())


@dataclass(frozen=True, slots=True)
class Remove:
    """No such file, link, or (``tree``) folder with what is in it."""

    path: Path
    tree: bool = False

    def is_done(self) -> bool:
        """Whether nothing is there."""
        return not os.path.lexists(self.path)

    def do(self) -> None:
        """Delete it."""
        if self.tree and self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class RemoveIfEmpty:
    """No such folder, unless somebody else has something in it."""

    path: Path

    def is_done(self) -> bool:
        """Whether nothing is there. What is going to be left in it is not known before."""
        return not self.path.is_dir()

    def do(self) -> None:
        """Delete it if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def __str__(self) -> str:
        return f"remove {self.path} if it is empty"


Change = Write | Link | PlaceTree | Remove | RemoveIfEmpty


def carry_out(changes: Iterable[Change], *, dry_run: bool) -> tuple[str, ...]:
    """Make the changes that are still to make, in their order; returns what was, or would be, done.

    Raises StateError for a file that cannot be written; what came before it is done.
    """
    lines = []
    for change in changes:
        if change.is_done():
            continue
        if not dry_run:
            try:
                change.do()
            except OSError as error:
                raise StateError(f"{change}: {error.strerror}", "run it as root") from error
        lines.append(str(change))
    return tuple(lines)


def replace_file(path: Path, content: bytes, mode: int | None = None, *, durable: bool = True) -> None:
    """Write beside the file, rename; it is whole at every instant, ``durable`` also after a power cut. Raises OSError.

    A program that runs from it goes on with the old content. Owner and, where ``mode`` is None, mode
    stay those of the file that was there; a new one gets 0644.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{UNFINISHED}")
    before = path.stat() if path.exists() else None
    if mode is None:
        mode = 0o644 if before is None else before.st_mode & 0o7777
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if before is not None and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
