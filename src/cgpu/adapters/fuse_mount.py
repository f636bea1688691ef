"""The tree as a file system, through libfuse. The only module that speaks FUSE."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from cgpu.adapters.agent_client import AgentClient, gpu_path, tenant_path
from cgpu.adapters.tree import File, Folder, Line, Node, Numbers, entry, errno_of, needs_gpus, needs_tenants, numbered
from cgpu.errors import CgpuError

FILE_SYSTEM: Final = "fuse.cgpu"
"""Its type in ``/proc/mounts``."""

_READ_ONLY: Final = 0o444
_READ_WRITE: Final = 0o644
_FOLDER: Final = 0o555
_MOUNTS: Final = Path("/proc/self/mountinfo")
_UNMOUNT_SECONDS: Final = 30.0


class _Handle:
    """One open file."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.line = Line()
        self.text: bytes = b""


class Tree:
    """The file system's operations. Every look asks the agent; nothing is kept but instance numbers."""

    use_ns = True  # times are nanoseconds

    def __init__(self, client: AgentClient, ready: Callable[[], None]) -> None:
        """``ready`` is called once the file system is mounted."""
        self._client = client
        self._ready = ready
        self._lock = threading.Lock()
        self._handles: dict[int, _Handle] = {}
        self._next_handle = itertools.count(1)
        self._looks = itertools.count(1)
        self._numbered_at = 0
        self._numbers: Numbers = {}
        self._born_ns = time.time_ns()

    def init(self, _path: str) -> None:
        """The kernel knows the file system now."""
        self._ready()

    def getattr(self, path: str, _handle: int | None = None) -> dict[str, int]:
        """Attributes. The size is 0, as in /proc; files are read without the kernel's cache, so it does not matter."""
        mode = stat.S_IFDIR | _FOLDER if path == "/" else _mode(self._entry(path))
        return {
            "st_mode": mode,
            "st_nlink": 2 if stat.S_ISDIR(mode) else 1,
            "st_uid": os.geteuid(),
            "st_gid": os.getegid(),
            **dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._born_ns),
        }

    def readdir(self, path: str, _handle: int) -> list[str]:
        """The names in a folder, now."""
        found = self._entry(path)
        if not isinstance(found, Folder):
            raise _error(errno.ENOTDIR)
        return [".", "..", *found.names]

    def open(self, path: str, flags: int) -> int:
        """A handle. Files that are only read are not opened for writing, by root neither."""
        found = self._file(path)
        if flags & os.O_ACCMODE != os.O_RDONLY and found.change is None:
            raise _error(errno.EPERM)
        with self._lock:
            number = next(self._next_handle)
            self._handles[number] = _Handle()
        return number

    def create(self, _path: str, _mode: int) -> int:
        """Nobody makes files here."""
        raise _error(errno.EPERM)

    def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
        """Reading from the start looks anew; the rest is of the same look, however small the pieces."""
        opened = self._handles[handle]
        with opened.lock:
            if offset == 0:
                opened.text = self._file(path).text.encode()
            return opened.text[offset : offset + size]

    def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
        """Change what the file stands for, and fail where the agent refuses."""
        opened = self._handles[handle]
        with opened.lock:
            value = opened.line.written(data, offset)
            change = self._file(path).change
            if change is None:
                raise _error(errno.EPERM)
            if value is not None:
                target = tenant_path(change.tenant) if change.tenant else gpu_path(change.gpu)
                with _agents_errors():
                    self._client.patch(target, change.body(value))
        return len(data)

    def truncate(self, path: str, _length: int, _handle: int | None = None) -> int:
        """What a shell's ``>`` does before it writes: nothing here."""
        if self._file(path).change is None:
            raise _error(errno.EPERM)
        return 0

    def release(self, _path: str, handle: int) -> int:
        """The last descriptor of a handle was closed."""
        with self._lock:
            del self._handles[handle]
        return 0

    def _file(self, path: str) -> File:
        found = self._entry(path)
        if isinstance(found, Folder):
            raise _error(errno.EISDIR)
        return found

    def _entry(self, path: str) -> File | Folder:
        with _agents_errors():
            found = entry(path, self._node(path))
        if found is None:
            raise _error(errno.ENOENT)
        return found

    def _node(self, path: str) -> Node:
        """As much of the node as the path needs."""
        if not needs_gpus(path):
            return Node(())
        gpus = self._client.get("/v1/gpus")
        if not needs_tenants(path):
            return Node(gpus)
        with self._lock:
            look = next(self._looks)
        tenants = self._client.get("/v1/tenants")
        with self._lock:
            # A look that began before another one and ended after it would bring back what has gone.
            if look > self._numbered_at:
                self._numbers, self._numbered_at = numbered(self._numbers, tenants), look
            return Node(gpus, tenants, self._numbers)


def mount(folder: Path, client: AgentClient, *, allow_other: bool, ready: Callable[[], None]) -> None:
    """Mount the tree and serve it until it is unmounted or a signal (TERM, INT, HUP) ends it; then nothing is left.

    Raises CgpuError where libfuse or its binding is missing, or the kernel does not take the mount.
    """
    fuse = _binding()
    served = False

    def mounted() -> None:
        nonlocal served
        served = True
        ready()

    options = {"allow_other": True, "default_permissions": True} if allow_other else {}
    try:
        fuse.FUSE(
            Tree(client, mounted),
            str(folder),
            foreground=True,
            direct_io=True,
            fsname="cgpu",
            subtype="cgpu",
            attr_timeout=0,
            entry_timeout=0,
            **options,
        )
    except RuntimeError as error:
        # libfuse tells an end by a signal in the same way as a mount that failed.
        if not served:
            remedy = "see the line above; it needs /dev/fuse, and an ordinary user fusermount3 (`apt install fuse3`)"
            raise CgpuError(f"{folder} cannot be mounted", remedy) from error


def unmount(folder: Path) -> None:
    """Unmount it, and so end the process that serves it. Raises CgpuError where the kernel refuses."""
    if os.geteuid() == 0:
        command = ["umount", str(folder)]
    else:
        tool = shutil.which("fusermount3") or shutil.which("fusermount")
        if tool is None:
            raise CgpuError("fusermount3 is not installed", "apt install fuse3")
        command = [tool, "-u", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_UNMOUNT_SECONDS, check=False)
    if result.returncode != 0:
        raise CgpuError(f"{folder} cannot be unmounted: {result.stderr.strip()}", "see who uses it: `fuser -m`")


def is_mounted(folder: Path) -> bool:
    """Whether a tree of ours is mounted there; its server may be dead."""
    wanted = os.path.realpath(folder)
    return any(
        point == wanted and kind == FILE_SYSTEM for point, kind in _mounts(_MOUNTS.read_text(errors="surrogateescape"))
    )


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    """Mount point and type of each row of mountinfo (proc_pid_mountinfo(5)); spaces are written in octal there."""
    for row in mountinfo.splitlines():
        before, _, after = row.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split(" ")[4])
        yield point, after.split(" ")[0]


def _binding() -> ModuleType:
    try:
        import mfusepy
    except ImportError as error:
        raise CgpuError("the Python package mfusepy is not installed", "pip install 'cgpu[tree]'") from error
    except OSError as error:
        raise CgpuError(f"libfuse cannot be loaded: {error}", "apt install fuse3") from error
    module: ModuleType = mfusepy
    return module


def _mode(found: File | Folder) -> int:
    if isinstance(found, Folder):
        return stat.S_IFDIR | _FOLDER
    return stat.S_IFREG | (_READ_ONLY if found.change is None else _READ_WRITE)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@contextmanager
def _agents_errors() -> Iterator[None]:
    """Errors of the agent as those of system calls."""
    try:
        yield
    except CgpuError as error:
        raise _error(errno_of(error)) from error
