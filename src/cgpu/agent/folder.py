"""The agent's runtime folder: made, locked, and made again where somebody has cleared it under a running agent."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cgpu.agent.locks import is_same_file, lock_runtime_dir
from cgpu.errors import StateError


class RuntimeFolder:
    """The folder and its lock, which keeps a second agent away."""

    def __init__(self, folder: Path, lock: Path, patience_s: float) -> None:
        """Raises AgentError when another agent has it after that many seconds, StateError when it is not usable."""
        self._folder = folder
        self._lock = lock
        self._descriptor = self._taken(patience_s)

    def was_cleared(self) -> bool:
        """Whether the lock's name is gone, or another file's: then the rest is gone, too."""
        return not is_same_file(self._descriptor, self._lock)

    def make_again(self) -> None:
        """Make and lock it again. Raises AgentError when another agent has come first, StateError when it cannot be."""
        descriptor = self._taken(0.0)
        os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Let the next agent have it."""
        os.close(self._descriptor)

    def _taken(self, patience_s: float) -> int:
        _make(self._folder)
        try:
            return lock_runtime_dir(self._lock, patience_s)
        except OSError as error:
            raise StateError(f"{self._lock}: {error.strerror}", "set CGPU_RUNTIME_DIR") from error


def _make(folder: Path) -> None:
    """Ours and nobody else's to write: another user could have made a folder of that name in /tmp."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        status = folder.lstat()
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}", "set CGPU_RUNTIME_DIR") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StateError(f"{folder} is not a folder that only this user may write", "set CGPU_RUNTIME_DIR")
