"""Reading below a folder that stands for a node's root, and never outside it, whatever its links say.

A tree may come from another machine or be a container's, so what is in it is not trusted: names are
followed one by one from an open folder, links are resolved as if the folder were the root, only
regular files are opened, and no more than a limit is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

_LINKS_MAX: Final = 40  # as the kernel has it, path_resolution(7)
_NAMES_MAX: Final = 4096  # entries of a folder: a node has at most some hundred PCI devices
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)
_REASONS: Final = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "too many links",
}


class UnknownError(Exception):
    """A fact that cannot be told; the text is the reason."""

    def __init__(self, reason: str, *, absent: bool = False) -> None:
        super().__init__(reason)
        self.absent = absent
        """Whether what was looked for is not there, rather than unreadable."""


class Tree:
    """The files below ``root``. Paths are relative to it, without a slash in front."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str, limit: int, *, end: bool = False) -> bytes:
        """The whole file of at most ``limit`` bytes, or the ``end`` of a longer one.

        Raises UnknownError, which names the path.
        """
        with _named(path), self._parent_of(path) as (folder, name):
            _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False), path)
            # Not blocking: it could have become a pipe meanwhile.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
            try:
                status = os.fstat(descriptor)
                _require_regular(status, path)
                if end:
                    os.lseek(descriptor, max(0, status.st_size - limit), os.SEEK_SET)
                    return _read_at_most(descriptor, limit)
                # The files of the kernel say that they are empty.
                data = b"" if status.st_size > limit else _read_at_most(descriptor, limit + 1)
            finally:
                os.close(descriptor)
            if status.st_size > limit or len(data) > limit:
                raise UnknownError(f"/{path}: larger than {limit} bytes")
            return data

    def mode(self, path: str) -> int | None:
        """The mode of what the path leads to, None when it is not there.

        Raises UnknownError when that cannot be told.
        """
        try:
            with _named(path), self._parent_of(path) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        except UnknownError as error:
            if error.absent:
                return None
            raise

    def exists(self, path: str) -> bool:
        """Whether there is something of that name. Raises UnknownError when that cannot be told."""
        return self.mode(path) is not None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of that name. Raises UnknownError when that cannot be told."""
        mode = self.mode(path)
        return mode is not None and stat.S_ISDIR(mode)

    def names(self, path: str) -> list[str]:
        """The names in a folder, sorted. Raises UnknownError, also when there are too many."""
        with _named(path), self._parent_of(path) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                with os.scandir(descriptor) as entries:
                    found = [entry.name for entry, _ in zip(entries, range(_NAMES_MAX + 1), strict=False)]
            finally:
                os.close(descriptor)
            if len(found) > _NAMES_MAX:
                raise UnknownError(f"/{path}: more than {_NAMES_MAX} entries")
            return sorted(found)

    def glob(self, pattern: str) -> list[str]:
        """The paths that exist and match, sorted; ``*`` stands for a name or a part of one.

        Raises UnknownError when a folder on the way cannot be listed; one that is not there has none.
        """
        parts = pattern.split("/")
        paths = [""]
        for part in parts:
            if "*" not in part:
                paths = [f"{path}{part}/" for path in paths]
            else:
                paths = [f"{path}{name}/" for path in paths for name in self._matching(path, part)]
        return [path.rstrip("/") for path in paths if self.exists(path.rstrip("/"))]

    def _matching(self, path: str, part: str) -> list[str]:
        try:
            return [name for name in self.names(path.rstrip("/") or ".") if fnmatchcase(name, part)]
        except UnknownError as error:
            if error.absent:
                return []
            raise

    @contextmanager
    def _parent_of(self, path: str) -> Iterator[tuple[int, str]]:
        """The open folder in which the path ends, all links followed, and its name there."""
        stack = [os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            name = _walk(path, stack)
            yield stack[-1], name
        finally:
            for descriptor in stack:
                os.close(descriptor)


def _walk(path: str, stack: list[int]) -> str:
    """Go down from the folder on the stack; leaves the last folder on top of it and returns the last name."""
    parts = deque(_parts(path))
    links = 0
    while parts:
        part = parts.popleft()
        if part == "..":
            _up(stack, 1)
            continue
        target = _link(part, stack[-1])
        if target is not None:
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target.startswith("/"):
                _up(stack, len(stack) - 1)
            parts.extendleft(reversed(_parts(target)))
        elif not parts:
            return part
        else:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            stack.append(os.open(part, flags, dir_fd=stack[-1]))
    return "."


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _up(stack: list[int], levels: int) -> None:
    """Leave folders, but never the root: there ``..`` is the root itself."""
    for _ in range(min(levels, len(stack) - 1)):
        os.close(stack.pop())


def _link(name: str, folder: int) -> str | None:
    """Where a link leads, None of anything else."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnknownError(f"/{path}: not a regular file")


def _read_at_most(descriptor: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), 1 << 16))
        if not part:
            break
        data += part
    return bytes(data)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """What the system refuses becomes an UnknownError that names the path."""
    try:
        yield
    except OSError as error:
        raise UnknownError(f"/{path}: {reason(error)}", absent=error.errno in _ABSENT) from error
    except ValueError as error:  # a NUL in a name
        raise UnknownError(f"/{path}: not a name") from error


def reason(error: OSError) -> str:
    """What kept the system from it, in words."""
    return _REASONS.get(error.errno or 0) or (error.strerror or "unreadable").lower()
