"""What examining a node came to: its checks, its verdict, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from typing import Any, Final

from cgpu.compat.advice import Advice
from cgpu.compat.verdict import Check, Verdict, worst
from cgpu.doctor.facts import Facts


class Exit(IntEnum):
    """How ``cgpu doctor`` exits."""

    FINE = 0
    WARNINGS = 1
    """At least one check is a conflict or unknown."""

    FAILURES = 2
    """At least one check is unsupported."""

    NOT_CHECKED = 3
    """Nothing was worse than supported, but a check that matters lacks a fact, or there was nothing to check."""


_EXITS: Final = {
    Verdict.UNSUPPORTED: Exit.FAILURES,
    Verdict.CONFLICT: Exit.WARNINGS,
    Verdict.UNKNOWN: Exit.WARNINGS,
    Verdict.NOT_OBSERVED: Exit.NOT_CHECKED,
    Verdict.SUPPORTED: Exit.FINE,
}
# Where these cannot be checked, the node is not called unchecked: the facts they need come from a cluster,
# which a node by itself cannot be asked for, or say nothing about whether cGPU works.
_BESIDE: Final = (
    "issue:pod-limit", "requirement:", "installer", "labels", "daemonsets", "cpu-manager", "gpu-driver",
    "cluster:claim-rate", "cluster:gate", "cluster:versions",
)  # fmt: skip
_NOTHING: Final = Check("", Verdict.NOT_OBSERVED, "", "", "")


def matters(check: Check) -> bool:
    """Whether the check decides about the node: all do, but for some that could not be made."""
    return check.verdict is not Verdict.NOT_OBSERVED or not check.name.startswith(_BESIDE)


def verdict_of(checks: Iterable[Check]) -> Verdict:
    """The worst verdict of the checks that matter; ``not observed`` where there are none."""
    return worst([check for check in checks if matters(check)] or [_NOTHING])


def exit_of(verdicts: Iterable[Verdict]) -> Exit:
    """The exit code of the worst of several nodes' verdicts; of no node at all, ``NOT_CHECKED``."""
    return _EXITS[min(verdicts, key=lambda verdict: verdict.rank, default=Verdict.NOT_OBSERVED)]


@dataclass(frozen=True, slots=True)
class Report:
    """What is known of one node and what follows from it."""

    node: str
    """The node's name, or what it was read from."""

    checks: tuple[Check, ...]
    """The worst first."""

    facts: Facts
    advice: Advice | None
    """What to change so that every check supports it; None where no cGPU of Alibaba's is known to be on the node."""

    data_date: date
    """Of the compatibility data."""

    of_node: bool = True
    """False: it is of the cluster, not of a node in it."""

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks that matter."""
        return verdict_of(self.checks)

    @property
    def exit_code(self) -> Exit:
        """What ``cgpu doctor`` exits with for this node alone."""
        return exit_of([self.verdict])

    def as_json(self) -> dict[str, Any]:
        """The stable machine-readable form; ``cgpu doctor --facts`` reads the facts in it back."""
        return {
            "node": self.node,
            "verdict": self.verdict.value,
            "exit_code": int(self.exit_code),
            "checks": [check.as_json() for check in self.checks],
            "advice": None if self.advice is None else advice_as_json(self.advice),
            "facts": {name: {"value": fact.value, "how": fact.how} for name, fact in self.facts.given.items()},
            "data": {"date": self.data_date.isoformat()},
        }


def advice_as_json(advice: Advice) -> dict[str, Any]:
    """The stable machine-readable form of an advice."""
    return {
        "possible": advice.possible,
        "needed": advice.needed,
        "text": advice.text,
        "changes": [change.as_json() for change in advice.changes],
    }
