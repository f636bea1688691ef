"""Labels of a Kubernetes node that control how its GPUs are shared, and those that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from cgpu.compat.verdict import Check, Verdict, worst
from cgpu.doctor.facts import Facts

SCHEDULE: Final = "ack.node.gpu.schedule"
PLACEMENT: Final = "ack.node.gpu.placement"
CGPU: Final = "cgpu"
GPUSHARE: Final = "gpushare"
DISABLED: Final = "cgpu.disable.isolation"

_SOURCE: Final = "Alibaba Cloud Container Service for Kubernetes documentation, labels for GPU scheduling"
_ISOLATED: Final = ("cgpu", "core_mem")
_EXCLUSIVE: Final = ("default", "topology", "mig", "disabled")
_VALUES: Final = {
    SCHEDULE: (*_ISOLATED, "share", "mps", *_EXCLUSIVE),
    PLACEMENT: ("binpack", "spread"),
    CGPU: ("true", "false"),
    GPUSHARE: ("true", "false"),
    DISABLED: ("true", "false"),
}
# The older label's value, and the modes of the newer one that say the opposite.
_AGAINST: Final = (
    (CGPU, "true", (*_EXCLUSIVE, "share"), "isolated sharing"),
    (CGPU, "false", _ISOLATED, "no isolated sharing"),
    (GPUSHARE, "true", _EXCLUSIVE, "sharing"),
)


class _Finding(NamedTuple):
    verdict: Verdict
    rule: str
    advice: str


def check_labels(facts: Facts, *, isolation: bool) -> Iterator[Check]:
    """One check of all labels that control sharing; none where the node has no such label.

    Args:
        facts: of the node.
        isolation: whether a label turns isolation on.
    """
    labels = facts["labels"]
    if not labels.known:
        return
    ours = {name: labels.value[name] for name in _VALUES if name in labels.value}
    if not ours:
        return
    value = ", ".join(f"{name}={text}" for name, text in ours.items())
    findings = [*_contradictions(ours, isolation=isolation), *_unknown_values(ours)]
    if not findings:
        yield Check("labels", Verdict.SUPPORTED, value, "the labels agree with each other", _SOURCE)
        return
    checks = [Check("labels", verdict, value, rule, _SOURCE, advice) for verdict, rule, advice in findings]
    rule = "; ".join(check.rule for check in checks)
    advice = "; ".join(dict.fromkeys(check.advice for check in checks))
    yield Check("labels", worst(checks), value, rule, _SOURCE, advice)


def _contradictions(labels: Mapping[str, str], *, isolation: bool) -> Iterator[_Finding]:
    mode = labels.get(SCHEDULE)
    for name, value, against, meaning in _AGAINST:
        if labels.get(name) == value and mode in against:
            yield _Finding(
                Verdict.CONFLICT,
                f"{name}={value} asks for {meaning}, {SCHEDULE}={mode} for the opposite",
                f"remove the older label {name}: {SCHEDULE} alone says what the node does",
            )
    if isolation and labels.get(DISABLED) == "true":
        yield _Finding(
            Verdict.CONFLICT,
            f"{DISABLED}=true turns off the isolation that another label turns on",
            f"remove {DISABLED}, or set {SCHEDULE} to share; then restart the device plugin's pod on the node",
        )


def _unknown_values(labels: Mapping[str, str]) -> Iterator[_Finding]:
    for name, text in labels.items():
        if text not in _VALUES[name]:
            known = ", ".join(_VALUES[name])
            yield _Finding(Verdict.UNKNOWN, f"{name}={text}: no such value is known", f"{name} is one of {known}")
