"""What the engines have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cgpu.errors import StateError

RUNTIME: Final = "cgpu"
"""The runtime's name: ``docker run --runtime cgpu``."""

_BACKUP_SUFFIX: Final = ".cgpu-backup"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The file that holds the entry, as it is now."""

    path: Path
    text: str | None  # None: there is no such file
    main: str | None = None  # the engine's main file, where this one only adds to it


class Engine(Protocol):
    """Reads no file but those it is asked to find; raises StateError for a text it cannot edit."""

    @property
    def name(self) -> str:
        """As in ``--engine``."""
        ...

    @property
    def default_config(self) -> Path:
        """Its file, or the drop-in that we make."""
        ...

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The programs of runtimes that it uses by default, most usual first."""
        ...

    @property
    def reload(self) -> str:
        """What makes it read its file again."""
        ...

    def locate(self, config: Path) -> ConfigFile:
        """The file for the entry, where ``config`` is the engine's main file (or its own drop-in)."""
        ...

    def registered(self, text: str) -> str | None:
        """The program of the entry ``cgpu``; None: there is no such entry."""
        ...

    def with_runtime(self, file: ConfigFile, program: str) -> str:
        """The text with the entry. Nothing else in it changes."""
        ...

    def without_runtime(self, text: str, before: str | None) -> str | None:
        """The text without the entry; None: nothing is left. ``before``: as it was before the first entry, if known."""
        ...


def backup_of(path: Path) -> Path:
    """Where the file is kept as it was before our first entry."""
    return path.with_name(path.name + _BACKUP_SUFFIX)


def read_config(path: Path) -> ConfigFile:
    """The file, with links followed: it is the target that is going to be replaced. Raises StateError."""
    path = path.resolve()
    try:
        return ConfigFile(path, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ConfigFile(path, None)
    except UnicodeDecodeError as error:
        raise StateError(f"{path} is not UTF-8: byte {error.start}", "correct it; nothing was changed") from error
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}", "run it as root") from error
