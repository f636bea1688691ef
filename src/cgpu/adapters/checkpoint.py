"""The agent's checkpoint: one versioned JSON file that is whole at every instant.

Compatibility: a reader refuses another version than its own; fields that it does not know are
kept out of its way by being ignored; an incompatible change gets a new version number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cgpu.errors import StateError

VERSION: Final = 1


class CheckpointStore:
    """Reads and replaces the checkpoint at ``path``."""

    def __init__(self, path: Path, step: Callable[[str], None] = lambda _: None) -> None:
        """``step`` is called between the steps of a save, for tests of a killed agent."""
        self.path = path
        self._step = step

    def load(self) -> dict[str, Any] | None:
        """The document, or None when there is none yet.

        A file that cannot be understood is renamed to ``<name>.unreadable``, never overwritten, and
        StateError is raised.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self.set_aside(f"not JSON: {error}") from error
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise self.set_aside(f"not a checkpoint of version {VERSION}")
        return document

    def save(self, document: dict[str, Any]) -> None:
        """Replace the checkpoint: write beside it, fsync, rename, fsync the folder."""
        temporary = self.path.with_name(self.path.name + ".new")
        # Without an indent: with one, Python's encoder in C is not used, which is ten times as fast.
        data = json.dumps({**document, "version": VERSION}).encode()
        try:
            with temporary.open("wb") as file:
                file.write(data)
                self._step("checkpoint:written")
                file.flush()
                os.fsync(file.fileno())
            self._step("checkpoint:synced")
            temporary.replace(self.path)
            self._step("checkpoint:renamed")
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}", "free some space, or check the folder") from error

    def set_aside(self, reason: str) -> StateError:
        """Rename the file out of the way; returns the error to raise."""
        aside = unreadable_name(self.path)
        try:
            self.path.rename(aside)
        except OSError as error:
            return StateError(f"{self.path}: {reason}; and it cannot be renamed: {error.strerror}")
        return StateError(
            f"{self.path}: {reason}; kept as {aside.name}",
            "start the agent again: it takes over the tenants that still run from their regions",
        )


def unreadable_name(path: Path) -> Path:
    """Beside the file, a name under which it can be kept once it is found unreadable; no other file has it."""
    aside = path.with_name(path.name + ".unreadable")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.unreadable-{number}")
    return aside
