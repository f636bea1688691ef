"""What the probes look at: a tree of files and what commands print, with the reasons for what they cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from cgpu.compat.versions import parse_version
from cgpu.doctor.facts import Fact
from cgpu.doctor.probes import files
from cgpu.doctor.probes.commands import COMMANDS, PACKAGES, CommandRunner, RecordedOutputs
from cgpu.doctor.probes.packages import dpkg_versions, rpm_versions
from cgpu.doctor.probes.tree import Tree, UnknownError
from cgpu.errors import FactError

Attempt = Callable[[], Fact]
"""One way of knowing a fact; raises UnknownError when it fails."""

_QUOTE_MAX: Final = 60


class Node:
    """One node while it is probed. Each file is read and each command run at most once."""

    def __init__(self, tree: Tree, runner: CommandRunner | None = None) -> None:
        """``runner`` None: what commands print was recorded in the tree."""
        self.tree = tree
        self._runner = RecordedOutputs(tree) if runner is None else runner
        self._seen: dict[tuple[str, str], Any] = {}

    def data(self, path: str, pattern: str | None = None) -> bytes:
        """The bytes of one of ``PROBE_FILES``, or of a path that one of its patterns has found."""
        limit = files.LIMITS[pattern or path]
        data: bytes = self._once("file", path, lambda: self.tree.read(path, limit))
        return data

    def text(self, path: str, pattern: str | None = None) -> str:
        """The same as text without white space at its ends. Raises UnknownError also for what is no text."""
        try:
            return self.data(path, pattern).decode().strip()
        except UnicodeDecodeError as error:
            raise UnknownError(f"/{path}: not a text") from error

    def output(self, name: str) -> tuple[str, str]:
        """What one of ``COMMANDS`` prints, and how that is known."""
        command = COMMANDS[name]
        text: str = self._once("command", name, lambda: self._runner.output(command))
        return text, self._runner.how(command)

    def package(self, fact: str, names: Iterable[str]) -> Fact:
        """The version of the first of the packages that is installed, as a fact. Raises UnknownError."""
        packages, how = self._packages()
        for name in names:
            if name in packages:
                return version_fact(fact, packages[name], f"{how}: {name}")
        raise UnknownError(f"{how}: not installed as a package", absent=True)

    def loaded_modules(self) -> frozenset[str]:
        """The names of the kernel modules that are loaded. Raises UnknownError."""
        lines = self.text(files.MODULES).splitlines()
        rows = [line.split() for line in lines]
        if any(len(row) < 3 or not row[1].isdecimal() for row in rows):
            raise UnknownError(f"/{files.MODULES}: not a list of modules")
        return frozenset(row[0] for row in rows)

    def is_there(self) -> bool:
        """Whether the tree is of a node at all, so that what it lacks is lacking there too."""
        return any(self.tree.exists(path) for path in (files.KERNEL, *files.OS_RELEASE))

    def _packages(self) -> tuple[dict[str, str], str]:
        found: tuple[dict[str, str], str] = self._once("packages", "", self._read_packages)
        return found

    def _read_packages(self) -> tuple[dict[str, str], str]:
        try:
            return dpkg_versions(self.text(files.DPKG_STATUS), PACKAGES), f"/{files.DPKG_STATUS}"
        except UnknownError as no_dpkg:
            try:
                text, how = self.output("rpm")
            except UnknownError as no_rpm:
                raise UnknownError(f"{no_dpkg}; {no_rpm}") from no_rpm
            return rpm_versions(text, PACKAGES), how

    def _once(self, kind: str, name: str, look: Callable[[], Any]) -> Any:
        key = (kind, name)
        if key not in self._seen:
            try:
                self._seen[key] = look()
            except UnknownError as error:
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, UnknownError):
            raise found
        return found


def first_known(attempts: Iterable[Attempt]) -> Fact:
    """The first attempt that succeeds; when none does, a fact that is not known, for all of their reasons."""
    reasons: list[str] = []
    for attempt in attempts:
        try:
            return attempt()
        except UnknownError as error:
            if str(error) not in reasons:
                reasons.append(str(error))
    return Fact(None, "; ".join(reasons))


def version_fact(name: str, text: str, how: str) -> Fact:
    """A version as a fact. Raises UnknownError for anything else."""
    try:
        return Fact(str(parse_version(name, text)), how)
    except FactError as error:
        raise UnknownError(f"{how}: not a version: {quoted(text)}") from error


def quoted(text: str) -> str:
    """Foreign text, so that it can be shown in a line: its beginning, without control characters."""
    shown = repr(text.strip()[:_QUOTE_MAX])
    return shown if len(text.strip()) <= _QUOTE_MAX else f"{shown}..."
