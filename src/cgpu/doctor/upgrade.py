"""What a planned upgrade would break and mend: the reports before and after it, compared. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.facts import ABSENT, KINDS, Fact, Facts, check_value
from cgpu.doctor.outcome import Report
from cgpu.errors import FactError

_PLANNED_TYPES: Final = ("version", "text", "bool", "int")
_PLANNED: Final = tuple(
    name for name, kind in KINDS.items() if kind.type in _PLANNED_TYPES and name not in ("node", "agent", "gpus")
)
_BOOLEANS: Final = {"true": True, "false": False}
_HOW: Final = "planned (--to)"


@dataclass(frozen=True, slots=True)
class Step:
    """One check before and after; None where it does not apply."""

    name: str
    before: Check | None
    after: Check | None

    @property
    def change(self) -> int:
        """Below 0: worse afterwards; above 0: better."""
        return _rank(self.after) - _rank(self.before)

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        return {
            "name": self.name,
            "before": None if self.before is None else self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
        }


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A planned upgrade of one node."""

    planned: Mapping[str, Any]
    before: Report
    after: Report
    broken: tuple[Step, ...]
    """Checks that are worse afterwards; the worst first."""

    mended: tuple[Step, ...]
    """Checks that are better afterwards, or no longer apply."""

    unchanged: tuple[Step, ...]

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        return {
            "node": self.after.node,
            "to": dict(self.planned),
            "broken": [step.as_json() for step in self.broken],
            "mended": [step.as_json() for step in self.mended],
            "unchanged": [step.as_json() for step in self.unchanged],
            "before": self.before.as_json(),
            "after": self.after.as_json(),
        }


def parse_planned(text: str) -> dict[str, Any]:
    """The facts after an upgrade, from ``cgpu=1.5.20,driver=570.86.15``.

    Raises FactError, which names the field, for a fact that no upgrade changes, one named twice, and
    a malformed value.
    """
    planned: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise FactError("to", f"not FACT=VALUE: {part!r}", "write for example cgpu=1.5.20,driver=570.86.15")
        if name not in _PLANNED:
            raise FactError(name, "no upgrade changes that", f"these can be planned: {', '.join(_PLANNED)}")
        if name in planned:
            raise FactError(name, "is named twice", "name each fact once")
        planned[name] = _value(name, value)
    return planned


def _value(name: str, text: str) -> Any:
    kind = KINDS[name].type
    value: Any = text
    if kind == "bool":
        value = _BOOLEANS.get(text.lower(), text)
    elif kind == "int" and text.isascii() and text.isdigit() and len(text) <= len("1000"):
        value = int(text)
    check_value(KINDS[name], value)
    return value


def planned_facts(facts: Facts, planned: Mapping[str, Any]) -> Facts:
    """The facts as they will be."""
    changed = {name: Fact(value, _HOW) for name, value in planned.items()}
    if planned.get("cgpu") == ABSENT:
        changed["modules"] = Fact([], _HOW)  # they go with it
    return facts.merged(changed)


def compare(planned: Mapping[str, Any], before: Report, after: Report) -> Upgrade:
    """What the upgrade changes, check by check."""
    first = {check.name: check for check in before.checks}
    second = {check.name: check for check in after.checks}
    steps = [Step(name, first.get(name), second.get(name)) for name in dict.fromkeys([*second, *first])]
    return Upgrade(
        planned=planned,
        before=before,
        after=after,
        broken=tuple(step for step in steps if step.change < 0),
        mended=tuple(step for step in steps if step.change > 0),
        unchanged=tuple(step for step in steps if step.change == 0),
    )


def _rank(check: Check | None) -> int:
    """What does not apply does no harm."""
    return (Verdict.SUPPORTED if check is None else check.verdict).rank
