"""The compatibility data: the shipped TOML, a user's own on top of it, and what is wrong with a file, if anything."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Final

from cgpu.compat.rules import Rule
from cgpu.compat.versions import Version, instance_family, parse_version
from cgpu.errors import DataError, FactError

MATRICES: Final = ("driver", "instance", "toolkit", "kernel")
"""The tables, in the order of the source. Their names are the facts that they judge."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a matrix: what the versions ``low`` to ``high`` of cGPU, both included, work with."""

    table: str
    low: Version
    high: Version
    supported: tuple[Rule, ...] | tuple[str, ...]
    """Rules about versions; names of families in the table ``instance``."""

    unsupported: tuple[Rule, ...] | tuple[str, ...]
    source: str

    @property
    def span(self) -> str:
        """The versions in words: ``1.5.3 - 1.5.20``."""
        return self.low.text if self.low == self.high else f"{self.low} - {self.high}"

    def covers(self, cgpu: Version) -> bool:
        """Whether the row speaks of the version."""
        return self.low <= cgpu <= self.high


@dataclass(frozen=True, slots=True)
class Issue:
    """A known issue. Without ``affected`` it does not depend on the version of cGPU."""

    id: str
    title: str
    cause: str
    fix: str
    procedure: str
    source: str
    affected: Rule | None = None
    fixed: Rule | None = None
    between: str = ""
    """Why versions that are neither affected nor fixed are disputed."""

    about: str = ""
    """The matrix that speaks of the same thing."""

    explain_only: bool = False
    """No fact decides it; ``cgpu explain`` recognises its text."""

    when: Mapping[str, Any] = field(default_factory=dict)
    """Conditions beside the version: rules by the name of a fact, true or false, or a date."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a feature needs, where the node has its label."""

    id: str
    fact: str
    needs: Rule
    why: str
    source: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Installer:
    """What is known of the cGPU that a version of ack-ai-installer brings."""

    installer: str
    cgpu: str
    inferred: bool
    source: str


@dataclass(frozen=True, slots=True)
class DriverRelease:
    """When a driver came out; ``version`` is a series where all of its versions came out then or later."""

    version: str
    released: date


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything that is known, of one date."""

    name: str
    date: date
    source: str
    max_tenants_per_gpu: int
    never_below: Version
    isolation_labels: tuple[str, ...]
    versions: tuple[Version, ...]
    """The versions of cGPU that the source names, ascending: what can be advised."""

    rows: Mapping[str, tuple[Row, ...]]
    issues: Mapping[str, Issue]
    requirements: Mapping[str, Requirement]
    installers: tuple[Installer, ...]
    releases: Mapping[str, DriverRelease]
    releases_source: str
    own: tuple[str, ...] = ()
    """Names of the user's files on top of the shipped data."""

    def row(self, table: str, cgpu: Version) -> Row | None:
        """The row that speaks of the version; the user's own first."""
        return next((row for row in self.rows[table] if row.covers(cgpu)), None)


@cache
def shipped() -> Dataset:
    """The data that comes with cgpu."""
    folder = files("cgpu.compat") / "data"
    texts = [(folder / name).read_text() for name in ("alibaba.toml", "drivers.toml")]
    document: dict[str, Any] = {}
    for text in texts:
        document.update(tomllib.loads(text))
    return _Reader("the shipped data").dataset(document)


def overlaid(dataset: Dataset, text: str, name: str) -> Dataset:
    """The dataset with the rows of a user's file.

    A row with the same table and the same versions of cGPU as another one replaces it, an issue,
    requirement or release with the same id too; all others are added, and come first. Raises
    DataError, which names the file and the row.
    """
    reader = _Reader(name)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{name}: {error}", "it is TOML, in the form of `cgpu compat --export toml`") from error
    return reader.overlay(dataset, document)


class _Reader:
    """Turns a TOML document into rows, and says where it cannot."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._where = ""

    def dataset(self, document: Mapping[str, Any]) -> Dataset:
        head = self._at("dataset", 0, document.get("dataset"))
        empty = Dataset(
            name=self._text(head, "name"),
            date=self._date(head, "date"),
            source=self._text(head, "source"),
            max_tenants_per_gpu=self._value(head, "max_tenants_per_gpu", int),
            never_below=self._version("cgpu", self._text(head, "never_below")),
            isolation_labels=tuple(self._value(head, "isolation_labels", list)),
            versions=(),
            rows=dict.fromkeys(MATRICES, ()),
            issues={},
            requirements={},
            installers=(),
            releases={},
            releases_source=str(document.get("releases_source", "")),
        )
        return replace(self.overlay(empty, document), own=())

    def overlay(self, under: Dataset, document: Mapping[str, Any]) -> Dataset:
        known = {"dataset", "releases_source", "release", "issue", "requirement", "installer", *MATRICES}
        for table in document:
            if table not in known:
                raise DataError(
                    f"{self._name}: there is no table {table!r}", f"the tables are {', '.join(sorted(known))}"
                )
        head = document.get("dataset", {})
        self._where = "dataset"
        versions = {self._version("cgpu", text) for text in head.get("versions", [])} | set(under.versions)
        return replace(
            under,
            date=max(under.date, self._date(head, "date")) if "date" in head else under.date,
            versions=tuple(sorted(versions)),
            rows={table: self._rows(table, document, under.rows[table]) for table in MATRICES},
            issues={**under.issues, **self._all("issue", document, self._issue)},
            requirements={**under.requirements, **self._all("requirement", document, self._requirement)},
            installers=(*self._all("installer", document, self._installer).values(), *under.installers),
            releases={**under.releases, **self._all("release", document, self._release)},
            own=(*under.own, self._name),
        )

    def _all(self, table: str, document: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
        made = {}
        for index, entry in enumerate(self._entries(table, document)):
            value = make(self._at(table, index, entry))
            made[str(getattr(value, "id", getattr(value, "version", index)))] = value
        return made

    def _entries(self, table: str, document: Mapping[str, Any]) -> list[Any]:
        entries = document.get(table, [])
        if not isinstance(entries, list):
            raise DataError(f"{self._name}: {table} is not a list of tables", f"write [[{table}]]")
        return entries

    def _rows(self, table: str, document: Mapping[str, Any], under: tuple[Row, ...]) -> tuple[Row, ...]:
        own = [
            self._row(table, self._at(table, index, entry))
            for index, entry in enumerate(self._entries(table, document))
        ]
        spans = [(row.low, row.high) for row in own]
        for index, span in enumerate(spans):
            if span in spans[:index]:
                raise DataError(f"{self._name}: {table} has the row {own[index].span} twice")
        return (*own, *(row for row in under if (row.low, row.high) not in spans))

    def _row(self, table: str, entry: Mapping[str, Any]) -> Row:
        span = self._value(entry, "cgpu", list)
        if len(span) != 2:
            raise self._wrong("cgpu is the first and the last version of the row")
        low, high = (self._version("cgpu", text) for text in span)
        if high < low:
            raise self._wrong(f"cgpu: {low} is above {high}")
        read = self._family if table == "instance" else self._rule
        supported = tuple(read(text) for text in self._value(entry, "supported", list))
        unsupported = tuple(read(text) for text in entry.get("unsupported", []))
        return Row(table, low, high, supported, unsupported, self._text(entry, "source"))  # type: ignore[arg-type]

    def _issue(self, entry: Mapping[str, Any]) -> Issue:
        when = {
            name: self._rule(value) if isinstance(value, str) else value
            for name, value in entry.get("when", {}).items()
        }
        return Issue(
            **{name: self._text(entry, name) for name in ("id", "title", "cause", "fix", "procedure", "source")},
            affected=self._rule(entry["affected"]) if "affected" in entry else None,
            fixed=self._rule(entry["fixed"]) if "fixed" in entry else None,
            between=str(entry.get("between", "")),
            about=str(entry.get("about", "")),
            explain_only=bool(entry.get("explain_only", False)),
            when=when,
        )

    def _requirement(self, entry: Mapping[str, Any]) -> Requirement:
        texts = {name: self._text(entry, name) for name in ("id", "fact", "why", "source")}
        return Requirement(**texts, needs=self._rule(self._text(entry, "needs")), label=str(entry.get("label", "")))

    def _installer(self, entry: Mapping[str, Any]) -> Installer:
        texts = {name: self._text(entry, name) for name in ("installer", "cgpu", "source")}
        return Installer(**texts, inferred=bool(entry.get("inferred", False)))

    def _release(self, entry: Mapping[str, Any]) -> DriverRelease:
        return DriverRelease(self._text(entry, "version"), self._date(entry, "released"))

    def _at(self, table: str, index: int, entry: Any) -> Mapping[str, Any]:
        self._where = f"{table} {index + 1}"
        if not isinstance(entry, dict):
            raise self._wrong("not a table")
        return entry

    def _wrong(self, message: str) -> DataError:
        return DataError(f"{self._name}: {self._where}: {message}", "docs/compat.md describes the file")

    def _value(self, entry: Mapping[str, Any], name: str, kind: type) -> Any:
        value = entry.get(name)
        if not isinstance(value, kind):
            raise self._wrong(f"{name} is missing" if value is None else f"{name} is not a {kind.__name__}: {value!r}")
        return value

    def _text(self, entry: Mapping[str, Any], name: str) -> str:
        value: str = self._value(entry, name, str)
        return value

    def _date(self, entry: Mapping[str, Any], name: str) -> date:
        value: date = self._value(entry, name, date)
        return value

    def _version(self, field_name: str, text: Any) -> Version:
        try:
            return parse_version(field_name, str(text))
        except FactError as error:
            raise self._wrong(error.message) from error

    def _family(self, text: Any) -> str:
        try:
            return instance_family(str(text))
        except FactError as error:
            raise self._wrong(error.message) from error

    def _rule(self, text: Any) -> Rule:
        try:
            return Rule.parse(str(text))
        except ValueError as error:
            raise self._wrong(str(error)) from error
