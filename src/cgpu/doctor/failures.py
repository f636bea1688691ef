"""The catalogue of known failures: how each is recognised, why it happens, and what mends it.

How they are recognised stands in ``data/failures.toml``. Cause, versions and fix of the failures of
Alibaba's cGPU come from the compatibility data, those of the others from the same file. The error codes of
our own programs are failures too (``codes.py``).
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from cgpu.compat.dataset import Dataset, Issue
from cgpu.doctor import kernel_report
from cgpu.doctor.codes import Code, codes
from cgpu.doctor.log_text import squeeze

XID: Final = "xid"
_OTHER_XID: Final = {
    "title": "an Xid message of the NVIDIA driver",
    "cause": "the NVIDIA driver reports an error of the GPU or of a program on it; the number says which",
    "fix": "look the number up in NVIDIA's table of Xid errors",
}
_RELATIONS: Final = {"<=": "{} and earlier", ">=": "{} and later", "<": "before {}", ">": "after {}"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression over squeezed text."""

    regex: re.Pattern[str]
    has_gap: bool
    """A group ``gap``, which does not go on into the next log entry."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One known failure."""

    id: str
    title: str
    cause: str
    affected: str
    """The versions; empty where none are known to be."""

    fix: str
    confirm: str
    """What would confirm it, or rule it out."""

    source: str
    facts: tuple[str, ...] = ()
    """The facts of a node that bear on it."""

    anchors: tuple[str, ...] = ()
    """A match has one of these at least."""

    certain: tuple[Pattern, ...] = ()
    possible: tuple[Pattern, ...] = ()
    trace: bool = False
    """Recognised by ``kernel_report``, as possible."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All failures that can be recognised, and the date of the compatibility data behind them."""

    failures: Mapping[str, Failure]
    date: dt.date
    name: str

    @property
    def anchors(self) -> tuple[bytes, ...]:
        """Pieces of text; a log without any of them has none of the failures."""
        pieces = {anchor for failure in self.failures.values() for anchor in failure.anchors}
        # A piece that has another one in it is found with that one.
        least = {piece for piece in pieces if not any(other in piece for other in pieces - {piece})}
        return tuple(sorted(piece.encode() for piece in least))


def catalogue(dataset: Dataset) -> Catalogue:
    """The failures, with what this compatibility data knows of them."""
    table = tomllib.loads(files("cgpu.doctor").joinpath("data/failures.toml").read_text())
    fragments = table["fragments"]
    failures = [
        *(_failure(row, fragments, dataset) for row in table["failure"]),
        *_xids(table["xid"]),
        *map(_of_code, codes().values()),
    ]
    return Catalogue({failure.id: failure for failure in failures}, dataset.date, dataset.name)


def _failure(row: Mapping[str, Any], fragments: Mapping[str, str], dataset: Dataset) -> Failure:
    patterns = {
        kind: tuple(_pattern(text, fragments) for text in row.get(kind, ())) for kind in ("certain", "possible")
    }
    trace = row.get("trace", False)
    recognised = {
        "id": row["id"],
        "facts": tuple(row.get("facts", ())),
        "anchors": kernel_report.ANCHORS if trace else tuple(row["anchors"]),
        "trace": trace,
        **patterns,
    }
    if "cause" in row:
        texts = {name: row[name] for name in ("title", "cause", "fix", "confirm", "source")}
        return Failure(affected=row.get("affected", ""), **texts, **recognised)
    issue = dataset.issues[row["id"]]
    return Failure(
        title=issue.title,
        cause=issue.cause,
        affected=affected_text(issue),
        fix=f'{issue.fix}; see "{issue.procedure}"' if issue.procedure else issue.fix,
        confirm=row.get("confirm") or confirm_text(issue),
        source=issue.source,
        **recognised,
    )


def _pattern(text: str, fragments: Mapping[str, str]) -> Pattern:
    for name, fragment in fragments.items():
        text = text.replace(f"<{name}>", fragment)
    return Pattern(re.compile(text.replace(" ", "")), fragments["gap"] in text)


def _xids(table: Mapping[str, Any]) -> Iterator[Failure]:
    known = {number: row for number, row in table.items() if number.isdecimal()}
    for number, row in known.items():
        yield _xid(table, f"{XID}-{number}", number, {**row, "title": f"Xid {number}: {row['title']}"})
    others = "|".join(known)
    yield _xid(table, XID, rf"(?!(?:{others})(?![0-9]))\d{{1,4}}", _OTHER_XID)


def _xid(table: Mapping[str, Any], name: str, number: str, row: Mapping[str, str]) -> Failure:
    return Failure(
        id=name,
        title=row["title"],
        cause=row["cause"],
        affected="",
        fix=row["fix"],
        confirm=table["confirm"],
        source=table["source"],
        anchors=tuple(table["anchors"]),
        certain=tuple(_pattern(text, {"number": number, "gap": "<gap>"}) for text in table["patterns"]),
    )


def _of_code(code: Code) -> Failure:
    """An error of our own, recognised by the code it ends with or by what is said."""
    marked = squeeze(f"[{code.code}]")
    return Failure(
        id=code.code,
        title=code.meaning,
        cause="; or ".join(code.causes),
        affected="",
        fix=code.fix,
        confirm="",
        source="cgpu",
        anchors=("[cgpu-", *(squeeze(text.split(":")[0]) + ":" for text in code.said)),
        certain=(Pattern(re.compile("|".join([*map(_format_pattern, code.said), re.escape(marked)])), False),),
    )


def _format_pattern(text: str) -> str:
    """What a format of C's printf prints, up to its last fixed text. No text in it reaches our next line."""
    parts = re.split(r"(%[-0-9.]*(?:ll|l|z|h)?[a-z])", text)
    while parts and (not parts[-1] or parts[-1].startswith("%")):
        parts.pop()
    wild = {"s": r"(?:(?!cgpu:).){1,600}?"}
    return "".join(
        wild.get(part[-1], r"-?\d{1,20}") if part.startswith("%") else re.escape(squeeze(part)) for part in parts
    )


def affected_text(issue: Issue) -> str:
    """Such as ``cGPU 1.0.10 and earlier with nvidia-container-toolkit 1.11 and later``."""
    conditions = " and ".join(condition for condition, _ in _conditions(issue))
    if issue.affected is None and not conditions:
        return "not stated"
    versions = f"cGPU {bound_text(issue.affected.text)}" if issue.affected is not None else "every cGPU version"
    return f"{versions} with {conditions}" if conditions else versions


def confirm_text(issue: Issue) -> str:
    """What to look at on the node."""
    looks = []
    if issue.affected is not None:
        looks.append(f"cGPU {bound_text(issue.affected.text)} (cat /proc/cgpu_km/version)")
    looks += [f"{condition} ({look})" for condition, look in _conditions(issue)]
    return ", and ".join(looks)


def _conditions(issue: Issue) -> Iterator[tuple[str, str]]:
    """Each condition beside the version in words, and how to see it."""
    when = issue.when
    if when.get("container_os"):
        yield "Alibaba Cloud's container-optimized OS", "cat /etc/os-release"
    if "toolkit" in when:
        yield f"nvidia-container-toolkit {bound_text(when['toolkit'].text)}", "nvidia-container-toolkit --version"
    if "driver_released_after" in when:
        yield f"a GPU driver that was released after {when['driver_released_after']}", "nvidia-smi"
    if "pods_per_gpu" in when:
        yield f"{when['pods_per_gpu'].text.replace('>', 'more than ')} pods on one GPU", "kubectl inspect cgpu -d"


def bound_text(rule: str) -> str:
    """``1.5.7 and earlier`` of ``<=1.5.7``."""
    for relation, text in _RELATIONS.items():
        if rule.startswith(relation):
            return text.format(rule.removeprefix(relation))
    return rule
