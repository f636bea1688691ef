"""Where this software is on a host, and what is to change for it to be there, or not. Effects are left to the caller.

/opt/cgpu/VERSION-HASH/     a copy of the program; never changed once it is there
/opt/cgpu/current           leads to the one in use: the only thing that an upgrade has to switch
/usr/local/bin/cgpu         leads to its command, where nobody else has that name
/etc/systemd/system/cgpu-agent.service, and the link that starts it at boot
/etc/cgpu/agent.env         variables of the agent, where some were given
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cgpu.adapters.host.program import COMMAND, PYTHON, Program
from cgpu.adapters.host.unit import UNIT, environment_text, is_ours, parse_environment, unit_text
from cgpu.adapters.host_files import UNFINISHED, Change, Link, PlaceTree, Remove, RemoveIfEmpty, Write
from cgpu.errors import RefusedError, StateError
from cgpu.settings import Settings

PROGRAMS: Final = Path("/opt/cgpu")
CURRENT: Final = PROGRAMS / "current"
SYSTEM_COMMAND: Final = Path("/usr/local/bin/cgpu")
ENVIRONMENT: Final = Path("/etc/cgpu/agent.env")
_UNITS: Final = Path("/etc/systemd/system")
# systemd.unit(5): the other folders of units. A unit of ours would hide theirs, or be hidden.
_OTHER_UNITS: Final = tuple(Path(f"{above}/systemd/system") for above in ("/run", "/usr/local/lib", "/usr/lib", "/lib"))
_WANTED: Final = _UNITS / "multi-user.target.wants" / UNIT


@dataclass(frozen=True, slots=True)
class HostLayout:
    """The host's files below ``root``. Nothing is written here."""

    root: Path = Path("/")

    def at(self, path: Path) -> Path:
        """Where an absolute path of the host is from here."""
        return self.root / path.relative_to("/")

    @property
    def unit(self) -> Path:
        """The file of the unit."""
        return self.at(_UNITS / UNIT)

    @property
    def current(self) -> str | None:
        """The name of the version in use; None: none is installed."""
        link = self.at(CURRENT)
        return link.readlink().name if link.is_symlink() else None

    def unit_now(self) -> str | None:
        """The unit's text, None without one. Raises StateError where it cannot be read."""
        try:
            return self.unit.read_text()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StateError(f"{self.unit}: {error}", "run it as root") from error

    def variables(self) -> dict[str, str]:
        """What the environment file says; empty without one."""
        try:
            return parse_environment(self.at(ENVIRONMENT).read_text())
        except (OSError, ValueError):
            return {}

    def refuse_foreign(self) -> None:
        """Raises RefusedError where somebody else has a unit of that name, or our folder."""
        text = self.unit_now()
        foreign = [self.unit] if text is not None and not is_ours(text) else []
        foreign += [self.at(folder / UNIT) for folder in _OTHER_UNITS if self.at(folder / UNIT).exists()]
        link = self.at(CURRENT)
        foreign += [link] if os.path.lexists(link) and not link.is_symlink() else []
        if foreign:
            raise RefusedError(f"{foreign[0]} is not from `cgpu install`", "remove or rename it; nothing was changed")

    def has_own_command(self) -> bool:
        """Whether the command's usual place is free, or ours."""
        path = self.at(SYSTEM_COMMAND)
        return not os.path.lexists(path) or (path.is_symlink() and path.readlink().is_relative_to(PROGRAMS))

    def place(self, program: Program) -> list[Change]:
        """What can be done beforehand: nothing that runs sees it."""
        return [*self._unfinished(), PlaceTree(self.at(PROGRAMS) / program.name, program.files)]

    def switch(self, program: str, settings: Settings) -> list[Change]:
        """What makes a program that has been placed the one in use. ``settings``: of the service."""
        unit = unit_text(CURRENT / COMMAND, ENVIRONMENT, settings)
        return [Write(self.unit, unit.encode(), 0o644), Link(self.at(CURRENT), program)]

    def complete(self, variables: dict[str, str], *, enable: bool) -> list[Change]:
        """The rest of an installation. An environment file that is there stays as it is."""
        changes: list[Change] = []
        if variables and not self.at(ENVIRONMENT).exists():
            changes.append(Write(self.at(ENVIRONMENT), environment_text(variables).encode(), 0o644))
        if self.has_own_command():
            changes.append(Link(self.at(SYSTEM_COMMAND), str(CURRENT / COMMAND)))
        if enable:
            changes.append(Link(self.at(_WANTED), str(_UNITS / UNIT)))  # what `systemctl enable` makes
        return changes

    def others(self, program: str) -> list[Change]:
        """The versions that are not in use."""
        folder = self.at(PROGRAMS)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        return [Remove(folder / name, tree=True) for name in sorted(names - {program, CURRENT.name})]

    def remove(self, *, tenants: bool) -> list[Change]:
        """Nothing of it any more; with ``tenants`` nothing but what living ones, and their end, need.

        What is not ours stays. The programs come last: one of them may be running this.
        """
        text = self.unit_now()
        changes: list[Change] = []
        if text is None or is_ours(text):
            changes += [Remove(self.at(_WANTED)), RemoveIfEmpty(self.at(_WANTED.parent)), Remove(self.unit)]
        if self.has_own_command():
            changes.append(Remove(self.at(SYSTEM_COMMAND)))
        changes += self._unfinished()
        if not tenants:
            changes += [Remove(self.at(ENVIRONMENT)), RemoveIfEmpty(self.at(ENVIRONMENT.parent))]
            changes += [*self.others(""), Remove(self.at(CURRENT)), RemoveIfEmpty(self.at(PROGRAMS))]
        return changes

    def _unfinished(self) -> list[Change]:
        """What an installation that was killed has left half-written."""
        written = (CURRENT, _UNITS / UNIT, _WANTED, ENVIRONMENT, SYSTEM_COMMAND)
        found = [path for target in written for path in _temporaries(self.at(target.parent), target.name)]
        found += _temporaries(self.at(PROGRAMS), "*")
        return [Remove(path, tree=True) for path in dict.fromkeys(found)]


def _temporaries(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f".{name}.*{UNFINISHED}"))


def stable_python(executable: Path) -> Path:
    """The Python to name in files that outlive an upgrade: through the link, where a host's version runs this."""
    folder = Path(sys.prefix)
    current = folder.parent / CURRENT.name
    return current / PYTHON if current.is_symlink() and current.resolve() == folder.resolve() else executable
