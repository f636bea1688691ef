"""Verdicts and checks: what the matrices, the known issues and the doctor's own checks all answer with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a check came to; the members stand from the worst to the best."""

    UNSUPPORTED = "unsupported"
    """A row or a known issue says that it does not work."""

    CONFLICT = "conflict"
    """The source contradicts itself."""

    UNKNOWN = "unknown"
    """No row speaks of it."""

    NOT_OBSERVED = "not observed"
    """The check applies, but a fact that it needs is not known (``cgpu doctor`` only)."""

    SUPPORTED = "supported"
    """A row says that it works."""

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Verdict).index(self)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: ``name`` is stable (``driver``, ``issue:kernel-panic``); the texts are for people."""

    name: str
    verdict: Verdict
    value: str
    """The fact that was judged, as it was given; empty when it is not known."""

    rule: str
    """What decided, in words: ``cGPU 1.5.3 - 1.5.20: driver series 535 is supported``."""

    source: str
    """Where the rule stands."""

    advice: str = ""
    """What to do about it; empty when nothing need be done."""

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "value": self.value,
            "rule": self.rule,
            "source": self.source,
            "advice": self.advice,
        }


def worst_first(checks: Iterable[Check]) -> tuple[Check, ...]:
    """The worst first; those of one verdict in the order that they came in."""
    return tuple(sorted(checks, key=lambda check: check.verdict.rank))


def worst(checks: Iterable[Check]) -> Verdict:
    """The worst verdict; ``unknown`` of nothing at all."""
    return min((check.verdict for check in checks), key=lambda verdict: verdict.rank, default=Verdict.UNKNOWN)
