"""Attempts to have more of a card than a share allows, as values, and the tables made of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

MIB: Final = 1 << 20
NOT_OPENED: Final = -1
NO_FUNCTION: Final = -2
ANSWERS: Final = {
    0: "success",
    1: "INVALID_VALUE",
    2: "OUT_OF_MEMORY",
    201: "INVALID_CONTEXT",
    217: "PEER_ACCESS_UNSUPPORTED",
    400: "INVALID_HANDLE",
    500: "NOT_FOUND",
    801: "NOT_SUPPORTED",
    NOT_OPENED: "not opened",
    NO_FUNCTION: "no such function",
}
"""The driver's answers by name, and what kept a client from asking it."""
NOT_THERE: Final = "not there"
"""The outcome where this driver has no such function."""

RUN: Final = "cgpu run"
CONTAINER: Final = "container"
DRIVER: Final = "container, driver layer"
"""Where attempts are made."""


@dataclass(frozen=True)
class Attempt:
    """One way, tried once."""

    where: str
    way: str
    route: str
    """How the function was found; empty where the way says it."""
    asked_bytes: int | None
    """None: what it takes has no size of its own (a context, code)."""
    answer: int | str
    """The driver's, or what happened before it was asked."""
    charged_bytes: int
    """To the tenant, when the answer was there."""
    truth_bytes: int
    """What the card held for the tenant's processes then."""
    quota_bytes: int
    below: str = ""
    """What lies below the library level in the way, and which layer stops it; empty: this level has to."""

    @property
    def escaped(self) -> bool:
        """Whether the card held more than the share, or, where the charge is what limits, more than was charged."""
        limit = self.quota_bytes if self.where == DRIVER else min(self.quota_bytes, self.charged_bytes)
        return self.truth_bytes > limit

    @property
    def failed(self) -> bool:
        """Whether that must not be."""
        return self.escaped and not self.below

    @property
    def outcome(self) -> str:
        """In a word."""
        if self.escaped:
            return "ESCAPED" if self.failed else "escapes"
        return NOT_THERE if self.answer == NO_FUNCTION else "held"

    @property
    def said(self) -> str:
        """The answer by its name."""
        return ANSWERS.get(self.answer, str(self.answer)) if isinstance(self.answer, int) else self.answer


def escapes(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Those that must not be."""
    return [attempt for attempt in attempts if attempt.failed]


def document(attempts: Iterable[Attempt], machine: dict[str, object]) -> dict[str, Any]:
    """The JSON document."""
    rows = [{**asdict(attempt), "outcome": attempt.outcome} for attempt in attempts]
    return {"machine": machine, "escapes": sum(row["outcome"] == "ESCAPED" for row in rows), "attempts": rows}


def by_function(attempts: Sequence[Attempt]) -> list[tuple[str, int, str, str]]:
    """Of each function: its name, how often it was tried, the answers, the worst outcome."""
    functions, _ = _apart(attempts)
    return [(way, len(tried), _answers(tried), _worst(tried)) for way, tried in _by_way(functions)]


def text(attempts: Sequence[Attempt]) -> str:
    """The tables for a terminal: functions by route in a line each, then the other ways."""
    _, tricks = _apart(attempts)
    lines = [f"{'function':54}{'attempts':>9}  {'answers':46}  {'outcome'}"]
    lines += [f"{way:54}{count:9}  {said:46}  {outcome}" for way, count, said, outcome in by_function(attempts)]
    columns = f"{'asked':>8}  {'answer':15}{'charged':>9}{'truth':>9}  outcome"
    lines.append(f"\n{'where':25}{'way':58}{columns}  (MiB of {_quota(tricks)})")
    for row in tricks:
        lines.append(
            f"{row.where:25}{row.way:58}{_mib(row.asked_bytes):>8}  {row.said:15}{_mib(row.charged_bytes):>9}"
            f"{_mib(row.truth_bytes):>9}  {row.outcome}"
        )
    return "\n".join(lines)


def markdown(attempts: Sequence[Attempt]) -> str:
    """The same tables for a document, the layer that stops each way in the last column."""
    _, tricks = _apart(attempts)
    lines = [
        "| function | attempts | answers | outcome |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{way}` | {count} | {said} | {outcome} |" for way, count, said, outcome in by_function(attempts)]
    lines += [
        "",
        f"| where | way | asked, MiB | answer | charged | truth, of {_quota(tricks)} | outcome | what stops it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in tricks:
        lines.append(
            f"| {row.where} | {row.way} | {_mib(row.asked_bytes)} | {row.said} | {_mib(row.charged_bytes)} "
            f"| {_mib(row.truth_bytes)} | {row.outcome} | {row.below} |"
        )
    return "\n".join(lines) + "\n"


def _apart(attempts: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    return [row for row in attempts if row.route], [row for row in attempts if not row.route]


def _by_way(attempts: Iterable[Attempt]) -> list[tuple[str, list[Attempt]]]:
    ordered = sorted(attempts, key=lambda row: row.way)
    return [(way, list(tried)) for way, tried in groupby(ordered, key=lambda row: row.way)]


def _answers(attempts: Iterable[Attempt]) -> str:
    counted: dict[str, int] = {}
    for row in attempts:
        counted[row.said] = counted.get(row.said, 0) + 1
    return ", ".join(f"{said} {count}" for said, count in sorted(counted.items()))


def _worst(attempts: Iterable[Attempt]) -> str:
    return min((row.outcome for row in attempts), key=("ESCAPED", "escapes", "held", NOT_THERE).index)


def _quota(attempts: Sequence[Attempt]) -> str:
    return _mib(attempts[0].quota_bytes) if attempts else ""


def _mib(size_bytes: int | None) -> str:
    return "own" if size_bytes is None else str(-(-size_bytes // MIB))
