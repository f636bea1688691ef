"""The agents' locks: one per GPU of the machine, since two arbiters on a card never agree, and one per folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from cgpu.errors import AgentError
from cgpu.model.tenant import Gpu

_POLL_SECONDS: Final = 0.02


def lock_runtime_dir(lock: Path, patience_s: float) -> int:
    """Become the one agent of the folder that ``lock`` lies in. Returns the descriptor that holds the lock.

    Raises AgentError when another agent still has it after ``patience_s`` seconds.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise AgentError(f"an agent runs already in {lock.parent}", "`cgpu info` shows it") from None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor


def agent_has_ended(lock: Path, patience_s: float) -> bool:
    """Whether no agent uses the folder of ``lock`` any more, within ``patience_s`` seconds: it may be deleted.

    An agent stops answering a moment before it has closed its files.
    """
    try:
        os.close(lock_runtime_dir(lock, patience_s))
    except FileNotFoundError:
        return True
    except AgentError:
        return False
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


class GpuLocks:
    """Held until the process ends or ``release`` is called; the kernel frees them whatever happens."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the same for all agents of the machine."""
        self._folder = folder
        self._held: dict[str, int] = {}

    def acquire(self, gpu: Gpu) -> None:
        """Take the GPU for this agent; idempotent, also where its file is gone.

        Raises AgentError when another agent has it.
        """
        path = self._folder / f"cgpu-{gpu.uuid}.lock"
        if gpu.uuid in self._held:
            if is_same_file(self._held[gpu.uuid], path):
                return
            os.close(self._held.pop(gpu.uuid))  # somebody has removed it: nobody else meets us there
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AgentError(
                f"GPU {gpu.index} ({gpu.uuid}) is managed by another agent",
                f"use that agent (CGPU_AGENT_SOCKET), or end it; `fuser {path}` names it",
            ) from None
        self._held[gpu.uuid] = descriptor

    def take_again(self, gpu: Gpu) -> None:
        """The GPU's lock, if this agent has had it and its file is gone. Raises as ``acquire``."""
        if gpu.uuid in self._held:
            self.acquire(gpu)

    def release(self) -> None:
        """Let all of them go."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held = {}


def _open(path: Path) -> int:
    # Shared folders are sticky: opening another user's file with O_CREAT is refused there
    # (fs.protected_regular), so creation comes second.
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror}") from error
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o444)
        os.fchmod(descriptor, 0o444)
    except OSError as error:
        raise AgentError(f"{path}: {error.strerror}", "set CGPU_LOCK_DIR to a folder that all users share") from error
    return descriptor
