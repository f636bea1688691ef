"""Looking at, and making places in, a container's root from outside.

The root is the image's: each step of a path is opened below the one before, and no link is followed, so
that no image leads us to a file of the host.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_PRELOAD_BYTES_MAX: Final = 64 * 1024


class Rootfs:
    """The root of a container that does not run yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def is_folder(self, path: PurePosixPath) -> bool:
        """Whether the path is a folder, all the way without a link."""
        try:
            with self._opened(path):
                return True
        except OSError:
            return False

    def may_cover(self, path: PurePosixPath) -> bool:
        """Whether a mount hides nothing there: the name is free, or an empty file, which a mount may have left."""
        try:
            with self._opened(path.parent) as parent:
                status = os.lstat(path.name, dir_fd=parent)
        except FileNotFoundError:
            return self.make_place(path, folder=False)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == 0

    def make_place(self, path: PurePosixPath, *, folder: bool) -> bool:
        """Make an empty file or folder for a mount, unless the name is taken; False where that cannot be.

        Its parents are not made.
        """
        try:
            with self._opened(path.parent) as parent:
                if folder:
                    os.mkdir(path.name, 0o755, dir_fd=parent)
                else:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    os.close(os.open(path.name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            return True
        except OSError:
            return False
        return True

    def preloads(self, path: PurePosixPath) -> tuple[str, ...]:
        """What a preload file names; nothing where it is no plain file, or longer than 64 KiB."""
        try:
            with self._opened(path.parent) as parent:
                return _preloads(os.open(path.name, _FILE, dir_fd=parent))
        except OSError:
            return ()

    @contextlib.contextmanager
    def _opened(self, path: PurePosixPath) -> Iterator[int]:
        at = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in path.relative_to("/").parts:
                below = os.open(part, _FOLDER, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


def mounted_preloads(source: Path) -> tuple[str, ...]:
    """What a preload file names that the container's configuration mounts from the host."""
    try:
        return _preloads(os.open(source, _FILE))
    except OSError:
        return ()


def _preloads(opened: int) -> tuple[str, ...]:
    with os.fdopen(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return ()
        content = file.read(_PRELOAD_BYTES_MAX + 1)
    if len(content) > _PRELOAD_BYTES_MAX:
        return ()
    lines = (line.partition(b"#")[0] for line in content.splitlines())  # as the loader reads it
    return tuple(os.fsdecode(name) for line in lines for name in line.replace(b":", b" ").split())
