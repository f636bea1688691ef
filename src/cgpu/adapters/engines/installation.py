"""Our OCI runtime beside an engine: its program, its settings, and the engine's entry, as changes to make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.engines.containerd import Containerd
from cgpu.adapters.engines.docker import Docker
from cgpu.adapters.engines.engine import ConfigFile, Engine, backup_of, read_config
from cgpu.adapters.engines.podman import Podman
from cgpu.adapters.host_files import Change, Remove, RemoveIfEmpty, Write
from cgpu.errors import StateError, UsageError

ENGINES: Final[dict[str, Engine]] = {engine.name: engine for engine in (Docker(), Podman(), Containerd())}
FOLDER: Final = Path("/usr/local/lib/cgpu")
"""Below it a folder per engine: each may have another runtime below ours."""

PROGRAM: Final = "cgpu-runtime"
SETTINGS: Final = "cgpu-runtime.conf"

_MODE: Final = 0o755


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """What ``cgpu-runtime.conf`` says; see ``native/programs``. All paths are absolute."""

    runtime: Path  # the runtime that does the work
    python: Path
    socket: Path  # the agent's
    tenants: Path  # the agent's folder of regions
    sim_state: Path | None = None

    def text(self) -> str:
        """The file. Raises UsageError for a path that it cannot hold."""
        rows = {
            "runtime": self.runtime,
            "python": self.python,
            "socket": self.socket,
            "tenants": self.tenants,
            "sim_state": self.sim_state,
        }
        lines = [f"{key} = {_value(path)}" for key, path in rows.items() if path is not None]
        return "\n".join(["# From `cgpu runtime install`, which writes it anew.", *lines, ""])


def parse_settings(text: str) -> Mapping[str, str]:
    """The values of ``cgpu-runtime.conf``; what is not ``key = value`` is left out."""
    rows = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, separator, value in rows if separator}


@dataclass(frozen=True, slots=True)
class Installation:
    """One engine, its file, and the folder of our program."""

    engine: Engine
    config: Path  # the engine's main file, or its drop-in
    folder: Path

    @property
    def program(self) -> Path:
        """The runtime that the engine starts."""
        return self.folder / PROGRAM

    def install(self, program: bytes, settings: RuntimeSettings) -> list[Change]:
        """What is to change for the runtime to be there. Raises StateError for a file that cannot be edited."""
        file = self.engine.locate(self.config)
        text = self.engine.with_runtime(file, str(self.program))
        changes: list[Change] = [
            Write(self.folder / SETTINGS, settings.text().encode(), 0o644),
            Write(self.program, program, _MODE),
        ]
        # The engine's entry comes last: it never names a program that is not there.
        if file.text is not None and text != file.text and not backup_of(file.path).exists():
            changes.append(Write(backup_of(file.path), file.text.encode(), file.path.stat().st_mode & 0o7777))
        changes.append(Write(file.path, text.encode()))
        return changes

    def uninstall(self) -> list[Change]:
        """What is to change for it to be gone. A copy of the engine's file stays where it is not as it was before."""
        changes: list[Change] = []
        file = self.engine.locate(self.config)
        if file.text is not None:
            backup = read_config(backup_of(file.path)).text
            text = self.engine.without_runtime(file.text, backup)
            changes.append(Remove(file.path) if text is None else Write(file.path, text.encode()))
            if backup is not None and text == backup:
                changes.append(Remove(backup_of(file.path)))
        changes += [Remove(self.program), Remove(self.folder / SETTINGS)]
        changes.append(RemoveIfEmpty(self.folder))
        return [*changes, RemoveIfEmpty(FOLDER)] if self.folder.parent == FOLDER else changes

    def faults(self, program: bytes) -> list[str]:
        """What is wrong with it, in words; empty: it is installed, and is this version's."""
        file = self.engine.locate(self.config)
        entry = None if file.text is None else self.engine.registered(file.text)
        if entry is None:
            return ["not installed"]
        faults = [] if entry == str(self.program) else [f"{file.path} names {entry}, not {self.program}"]
        try:
            values = parse_settings((self.folder / SETTINGS).read_text())
            if self.program.read_bytes() != program:
                faults.append(f"{self.program} is of another version")
        except OSError as error:
            return [*faults, f"{error.filename}: {error.strerror}"]
        missing = [key for key in ("runtime", "python") if not Path(values.get(key, "")).is_file()]
        return faults + [f"{key} in {SETTINGS}: no such file: {values.get(key, '')!r}" for key in missing]

    def settings(self) -> Mapping[str, str]:
        """The settings in force; empty where there are none."""
        try:
            return parse_settings((self.folder / SETTINGS).read_text())
        except OSError:
            return {}

    def config_file(self) -> ConfigFile:
        """The engine's file with the entry, or for it."""
        return self.engine.locate(self.config)


def _value(path: Path) -> str:
    text = str(path)
    if not path.is_absolute():
        raise StateError(f"{text} is not an absolute path")
    if text != text.strip() or set(text) & set("#\n\r"):
        raise UsageError(
            f"{text!r} cannot be written into {SETTINGS}", "choose a path without #, and without space at its ends"
        )
    return text
