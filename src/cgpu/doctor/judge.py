"""Which of the recognised causes apply to a node, as its facts tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from cgpu.compat import alibaba
from cgpu.compat.dataset import Dataset
from cgpu.compat.verdict import Check, Verdict
from cgpu.doctor.explain import Confidence, Finding
from cgpu.doctor.facts import ABSENT, KINDS, Facts

Applies = Literal["yes", "no", "unknown"]
_OF_VERDICT: Final[Mapping[Verdict, Applies]] = {Verdict.UNSUPPORTED: "yes", Verdict.SUPPORTED: "no"}
_POD_LIMIT: Final = "pod-limit"


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding, and whether its cause is there on the node that the facts are of."""

    finding: Finding
    applies: Applies
    why: str

    def as_json(self) -> dict[str, Any]:
        """The finding's form, with ``applies`` and ``why``."""
        return {**self.finding.as_json(), "applies": self.applies, "why": self.why}


def judge(findings: Iterable[Finding], facts: Facts | None, dataset: Dataset) -> tuple[Judged, ...]:
    """Judge each finding. One that was possible is certain where the facts confirm it.

    Without facts everything is unknown, and each answer names what would tell.
    """
    if facts is None:
        return tuple(Judged(finding, "unknown", "") for finding in findings)
    given = given_of(facts)
    checks = {check.name: check for check in alibaba.check(dataset, given)}
    return tuple(_judged(finding, facts, dataset, checks) for finding in findings)


def given_of(facts: Facts) -> dict[str, Any]:
    """The values that were observed, without what the node was seen not to have."""
    return {name: fact.value for name, fact in facts.items() if fact.known and fact.value != ABSENT}


def _judged(finding: Finding, facts: Facts, dataset: Dataset, checks: Mapping[str, Check]) -> Judged:
    applies, why = _answer(finding, facts, dataset, checks)
    if applies == "yes":
        finding = replace(finding, confidence=Confidence.CERTAIN)
    return Judged(finding, applies, why)


def _answer(finding: Finding, facts: Facts, dataset: Dataset, checks: Mapping[str, Check]) -> tuple[Applies, str]:
    if finding.id not in dataset.issues:
        return "unknown", "no fact of a node decides it"
    if finding.id == _POD_LIMIT:
        return _of_pods(facts, dataset)
    if facts.value("cgpu") == ABSENT:
        return "no", f"this node has no cGPU of Alibaba's ({facts['cgpu'].how})"
    missing = [name for name in finding.failure.facts if not facts[name].known]
    if dataset.issues[finding.id].explain_only:
        return _of_kernel(checks.get("kernel"), missing)
    check = checks.get(f"issue:{finding.id}")
    if check is not None and check.verdict in _OF_VERDICT:
        return _OF_VERDICT[check.verdict], check.rule
    if missing:
        return "unknown", f"not observed: {_named(missing)}"
    return "unknown", check.rule if check is not None else "the compatibility data does not decide it"


def _of_pods(facts: Facts, dataset: Dataset) -> tuple[Applies, str]:
    """Pods of Alibaba's or tenants of ours: the limit is the same, and so is the message."""
    counts = {**(facts.value("tenants_per_gpu") or {}), **(facts.value("pods_per_gpu") or {})}
    if not counts:
        return "unknown", f"not observed: {_named(['pods_per_gpu'])}"
    gpu, most = max(counts.items(), key=lambda item: item[1])
    limit = dataset.max_tenants_per_gpu
    if most >= limit:
        return "yes", f"GPU {gpu} has {most} pods, and {limit} is the most it takes"
    return "no", f"no GPU has more than {most} pods now, and {limit} is the most it takes"


def _of_kernel(check: Check | None, missing: list[str]) -> tuple[Applies, str]:
    """The operating system's version is to blame, and of that only the kernel's table is known."""
    if check is not None and check.verdict is Verdict.UNSUPPORTED:
        return "yes", check.rule
    if missing:
        return "unknown", f"not observed: {_named(missing)}"
    return "unknown", check.rule if check is not None else "the compatibility data does not decide it"


def _named(names: Iterable[str]) -> str:
    return ", ".join(f"{name} ({KINDS[name].meaning})" for name in names)
