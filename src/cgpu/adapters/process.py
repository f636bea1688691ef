"""Processes of the host: who they are in any PID namespace, and when they end.

Facts come from proc(5): field 22 of ``stat`` (start time in clock ticks), the ``NSpid`` line of
``status`` (the pid in each namespace, innermost last), the inode behind ``ns/pid``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from cgpu.adapters import mounts
from cgpu.adapters.mounts import HostFile

# Indices after the name: field 3 (state), 20 (num_threads) and 22 (starttime) of proc_pid_stat(5).
_STATE: Final = 0
_NUM_THREADS: Final = 17
_START_TICKS: Final = 19
_STAT_MAX: Final = 4096  # bytes; some 400 are usual
_IDENTITIES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a process from every other one, also after its pid is used again."""

    pid: int  # in the process's own PID namespace
    start_ticks: int
    pid_namespace: int  # inode; 0 when it may not be read, or the process is ending

    def is_same(self, other: Identity) -> bool:
        """Equal, with an unreadable namespace taken as agreeing."""
        return (self.pid, self.start_ticks) == (other.pid, other.start_ticks) and self.is_in(other.pid_namespace)

    def is_in(self, pid_namespace: int) -> bool:
        """Whether its namespace is that one, as far as both may be read."""
        return self.pid_namespace == pid_namespace or 0 in (self.pid_namespace, pid_namespace)


class ProcessTable:
    """Reads /proc. ``root`` stands for it in tests."""

    def __init__(self, root: Path = Path("/proc"), watch: ProcessWatch | None = None) -> None:
        """``watch``: who is watched there is not asked for again as long as it lives."""
        self._root = root
        self._watch = watch
        self._identities: dict[int, Identity] = {}  # of processes that were seen; by host pid
        self._watched: dict[int, tuple[int, Identity]] = {}  # by host pid: seen since that number of the watch

    def identity(self, host_pid: int) -> Identity | None:
        """Who the process is, or None when there is none."""
        ticks = self.start_ticks(host_pid)
        if ticks is None:
            return None
        known = self._identities.get(host_pid)
        if known is not None and known.start_ticks == ticks:
            return known  # neither pid nor namespace of a process changes
        folder = self._root / str(host_pid)
        try:
            status = (folder / "status").read_text(errors="replace")
        except OSError:
            return None
        inner = next((line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")), str(host_pid))
        try:
            namespace = (folder / "ns" / "pid").stat().st_ino
        except OSError:
            return Identity(int(inner), ticks, 0)
        if len(self._identities) >= _IDENTITIES_MAX:
            self._identities.clear()
        identity = self._identities[host_pid] = Identity(int(inner), ticks, namespace)
        return identity

    def identities(self, host_pids: Collection[int]) -> dict[int, Identity | None]:
        """Who these processes are, as ``identity`` tells it."""
        living = {} if self._watch is None else self._watch.living()
        found: dict[int, Identity | None] = {}
        if len(self._watched) > 2 * len(living):
            self._watched = {pid: row for pid, row in self._watched.items() if pid in living}
        for pid in host_pids:
            number, known = living.get(pid), self._watched.get(pid)
            if number is not None and known is not None and known[0] == number:
                found[pid] = known[1]
                continue
            identity = found[pid] = self.identity(pid)
            # Of whom it was read while the watch was on, it is as long as that watch has not told of an end.
            if number is not None and identity is not None:
                self._watched[pid] = number, identity
        return found

    def start_ticks(self, host_pid: int) -> int | None:
        """Clock ticks from boot to the start of the process; None when it is gone or a zombie."""
        try:
            # Asked of every process of a full node twice a second: pathlib and text files take three times as long.
            descriptor = os.open(f"{self._root}/{host_pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
            try:
                stat = os.read(descriptor, _STAT_MAX)
            finally:
                os.close(descriptor)
        except OSError:
            return None
        # The name, in parentheses, may itself hold spaces and parentheses.
        fields = stat.rpartition(b")")[2].split()
        # A process whose first thread has ended shows as a zombie while its other threads run.
        if fields[_STATE] in b"ZX" and int(fields[_NUM_THREADS]) <= 1:
            return None
        return int(fields[_START_TICKS])

    def with_mounted(self, path: Path, place: PurePosixPath) -> list[int]:
        """Host pids of all processes that have this file of the host mounted there, as far as this user may look."""
        return mounts.users_of(path, place, self._root) or []

    def command(self, host_pid: int) -> str:
        """The process's short name, empty when there is none."""
        try:
            return (self._root / str(host_pid) / "comm").read_text(errors="replace").strip()
        except OSError:
            return ""

    def variable(self, host_pid: int, name: str) -> str | None:
        """An environment variable as it was when the process was executed; None when absent or unreadable."""
        try:
            environment = (self._root / str(host_pid) / "environ").read_bytes()
        except OSError:
            return None
        prefix = f"{name}=".encode()
        for entry in environment.split(b"\0"):
            if entry.startswith(prefix):
                return os.fsdecode(entry.removeprefix(prefix))
        return None

    def values_of(self, name: str, besides: Collection[int] = ()) -> set[str]:
        """What ``variable`` tells of all processes but these host pids."""
        found = (self.variable(pid, name) for pid in self.pids() if pid not in besides)
        return {value for value in found if value is not None}

    def pids(self) -> list[int]:
        """All host pids now."""
        try:
            return [int(entry.name) for entry in self._root.iterdir() if entry.name.isdecimal()]
        except OSError:
            return []

    def find(self, identity: Identity) -> int | None:
        """Host pid of the process that is this one; None when there is none."""
        found = ((pid, self.identity(pid)) for pid in self.pids())
        return next((pid for pid, seen in found if seen is not None and seen.is_same(identity)), None)

    def file_of(self, path: Path) -> HostFile | None:
        """A file of this host, whatever it is called elsewhere; None where that cannot be told."""
        return mounts.file_of(path, self._root)

    def mounted_at(self, host_pid: int, place: PurePosixPath) -> HostFile | None:
        """The file that the process has mounted there; None where there is none, or it may not be looked at."""
        return mounts.mounted_at(host_pid, place, self._root)

    def uid_gid(self, host_pid: int) -> tuple[int, int] | None:
        """The effective user and group of a process; None when there is none."""
        try:
            status = (self._root / str(host_pid)).stat()
        except OSError:
            return None
        return status.st_uid, status.st_gid


def pidfd_error() -> str:
    """Why this process cannot have pidfds (pidfd_open(2), Linux 5.3), in the kernel's words; empty where it can."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return str(error.strerror)
    return ""


class _Watched(NamedTuple):
    host_pid: int
    number: int


class ProcessWatch:
    """Waits for the end of processes through pidfds, and for being woken.

    One thread waits and says who is watched; any thread may ask for the living.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()  # what it takes to wait does not grow with the processes
        self._lock = threading.Lock()  # of the next two
        self._watched: dict[int, _Watched] = {}  # by descriptor
        self._numbers = itertools.count()
        self._gone: set[int] = set()  # ended before they could be watched; not told yet
        self._ended: set[int] = set()  # a zombie's pidfd would end every wait at once
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._wake, select.EPOLLIN)

    def watch(self, host_pid: int) -> bool:
        """Watch a process; False when it is gone already."""
        try:
            descriptor = os.pidfd_open(host_pid)
        except OSError:
            return False
        with self._lock:
            self._watched[descriptor] = _Watched(host_pid, next(self._numbers))
            self._poll.register(descriptor, select.EPOLLIN)
        return True

    def living(self) -> dict[int, int]:
        """The watched processes that have not ended, by host pid: a number that no other watch of a process has."""
        with self._lock:
            ended = {descriptor for descriptor, _ in self._poll.poll(0, len(self._watched) + 1)}
            return {row.host_pid: row.number for descriptor, row in self._watched.items() if descriptor not in ended}

    def watch_only(self, host_pids: set[int]) -> None:
        """Watch exactly these from now on; of those that have ended the end is not told again."""
        self._ended &= host_pids
        for descriptor, row in list(self._watched.items()):
            if row.host_pid not in host_pids:
                self._forget(descriptor)
        for pid in host_pids - self._ended - {row.host_pid for row in self._watched.values()}:
            if not self.watch(pid):
                self._gone.add(pid)

    def wake(self) -> None:
        """End a wait at once; may be called from any thread and from a signal handler."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def wait(self, seconds: float) -> set[int]:
        """The watched processes that have ended, after at most this long; they are watched no more."""
        ended, self._gone = self._gone, set()
        for descriptor, _ in self._poll.poll(0 if ended else seconds):
            if descriptor == self._wake:
                os.eventfd_read(self._wake)
            else:
                ended.add(self._forget(descriptor))
        self._ended |= ended
        return ended

    def fileno(self) -> int:
        """Ready to be read when ``wait`` would end at once."""
        return self._poll.fileno()

    def close(self) -> None:
        """Release all descriptors."""
        for descriptor in list(self._watched):
            self._forget(descriptor)
        self._poll.close()
        os.close(self._wake)

    def _forget(self, descriptor: int) -> int:
        with self._lock:
            self._poll.unregister(descriptor)
            os.close(descriptor)
            return self._watched.pop(descriptor).host_pid
