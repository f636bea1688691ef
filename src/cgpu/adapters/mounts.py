"""Which file of the host a process has mounted where, and which processes have one mounted.

Facts come from ``/proc/<pid>/mountinfo`` (proc(5)), the kernel's text: no path is looked up in a
container, so whatever is mounted there cannot hold up or deceive who asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")  # space, tab, newline and backslash
_FIELDS_MIN: Final = 5


class HostFile(NamedTuple):
    """A file or folder by its place in its file system: the same in every mount namespace."""

    device: str  # "major:minor" of the file system
    path: str  # from the file system's own root


class Mount(NamedTuple):
    """A line of mountinfo."""

    file: HostFile  # what is mounted
    place: PurePosixPath


def parse_mountinfo(text: str) -> Iterator[Mount]:
    """The mounts, in the kernel's order: of two at one place the later is on top. Malformed lines are left out."""
    for fields in _rows(text):
        yield Mount(HostFile(fields[2], _unescaped(fields[3])), PurePosixPath(_unescaped(fields[4])))


def file_of(path: Path, proc: Path = _PROC) -> HostFile | None:
    """The file at an absolute path, as this process sees it; None where that cannot be told. It need not exist."""
    absolute = PurePosixPath(os.path.realpath(path))
    above = {str(place) for place in (absolute, *absolute.parents)}
    # Texts are compared, since a host may have thousands of mounts; of two at one place the later is on top.
    covering = {
        place: fields for fields in _rows(_mountinfo(proc / "self")) if (place := _unescaped(fields[4])) in above
    }
    if not covering:
        return None
    deepest = max(covering, key=lambda place: len(PurePosixPath(place).parts))
    root = PurePosixPath(_unescaped(covering[deepest][3]))
    return HostFile(covering[deepest][2], str(root / absolute.relative_to(deepest)))


def mounted_at(host_pid: int, place: PurePosixPath, proc: Path = _PROC) -> HostFile | None:
    """What is mounted at that place for the process; None where nothing is, or where that may not be seen.

    ``place`` has none of the characters that mountinfo escapes.
    """
    text = _mountinfo(proc / str(host_pid))
    if f" {place} " not in text:  # a host may have thousands of mounts, and is asked twice a second
        return None
    found = [mount.file for mount in parse_mountinfo(text) if mount.place == place]
    return found[-1] if found else None


def users_of(path: Path, place: PurePosixPath, proc: Path = _PROC) -> list[int] | None:
    """Pids of the processes that have the file mounted at that place; None where this user may look at its own only."""
    if os.geteuid() != 0:
        return None
    wanted = file_of(path, proc)
    known: dict[str, HostFile | None] = {}  # by mount namespace
    users = []
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()):
        try:
            namespace = (proc / str(pid) / "ns" / "mnt").readlink().name
        except OSError:
            continue  # it has ended
        if known.get(namespace) is None:  # one that was just ending tells nothing of the others there
            known[namespace] = mounted_at(pid, place, proc)
        if wanted is not None and known[namespace] == wanted:
            users.append(pid)
    return users


def _mountinfo(folder: Path) -> str:
    try:
        return (folder / "mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""


def _rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.split(" ", _FIELDS_MIN)
        if len(fields) >= _FIELDS_MIN:
            yield fields


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
