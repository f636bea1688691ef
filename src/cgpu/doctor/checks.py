"""All checks of a node, from its facts and the compatibility data: pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final

from cgpu.compat.advice import advise
from cgpu.compat.alibaba import check
from cgpu.compat.dataset import MATRICES, Dataset, Issue
from cgpu.compat.ours import check_ours
from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Check, Verdict, worst_first
from cgpu.compat.versions import parse_version
from cgpu.doctor import node_checks
from cgpu.doctor.facts import ABSENT, Facts
from cgpu.doctor.labels import check_labels
from cgpu.doctor.outcome import Report

_ALIBABA_FACTS: Final = (
    *("cgpu", "driver", "kernel", "toolkit", "instance", "container_os", "pods_per_gpu", "labels", "kubernetes"),
    *("installer", "docker"),
)
_OUR_FACTS: Final = (
    *("kernel", "cgroup", "glibc", "driver", "toolkit", "docker", "podman", "containerd", "runc", "crun"),
    *("kubernetes", "seccomp"),
)
_OUR_NEEDS: Final = ("kernel", "driver")
_WAYS: Final = {
    "cgpu": "run cgpu doctor on the node, or with --cluster --probe",
    "toolkit": "run cgpu doctor on the node, or with --cluster --probe",
    "instance": "ask the cloud's metadata service with --metadata, or give `instance` in a file for --facts",
    "pods_per_gpu": "the cluster knows it: cgpu doctor --cluster",
}


def examine(dataset: Dataset, facts: Facts, *, ours: bool = False, name: str = "") -> Report:
    """Everything that can be said about a node.

    Alibaba's matrices and issues apply where its cGPU is on the node or a label turns its isolation
    on; what they lack is then ``not observed``. Our own rows apply where our agent manages the node,
    where ``ours`` asks for them, and where Alibaba's cGPU is no matter.

    Args:
        dataset: what is known of Alibaba's cGPU.
        facts: of the node.
        ours: check the node for our own software in any case.
        name: what to call a node whose facts do not name it.
    """
    state = node_checks.NodeState.of(dataset, facts)
    checks = list(_alibaba(dataset, state)) if state.alibaba else []
    asked = ours or facts.value("agent") is True
    if asked or (not state.alibaba and facts.value("gpus") != 0):
        checks += _ours(facts, asked=asked)
    checks += node_checks.check_node(dataset, state)
    checks += check_labels(facts, isolation=state.isolation)
    return Report(
        node=facts.value("node") or name or "this node",
        checks=worst_first(checks),
        facts=facts,
        # Without the installed version nobody knows whether anything has to be upgraded.
        advice=advise(dataset, _given(facts, _ALIBABA_FACTS)) if facts.version("cgpu") else None,
        data_date=dataset.date,
    )


def _given(facts: Facts, names: tuple[str, ...]) -> dict[str, Any]:
    """Plain values of what was observed and is there."""
    return {name: facts.value(name) for name in names if facts.value(name) not in (None, ABSENT)}


def _alibaba(dataset: Dataset, state: node_checks.NodeState) -> Iterator[Check]:
    facts = state.facts
    found = check(dataset, _given(facts, _ALIBABA_FACTS))
    yield from found
    if facts.value("cgpu") == ABSENT:
        return  # that is a finding by itself, and there is no version to compare
    done = {made.name for made in found}
    yield from _matrices_not_observed(dataset, facts, done)
    yield from _issues_not_observed(dataset, facts, done)
    yield from _requirements_not_observed(dataset, state, done)


def _ours(facts: Facts, *, asked: bool) -> Iterator[Check]:
    given = _given(facts, _OUR_FACTS)
    if facts.value("agent") is not True:  # else `two-cgpus` tells it
        given |= {name: facts.value(name) for name in ("cgpu", "modules") if facts[name].known}
    found = check_ours(given)
    yield from found
    done = {made.name for made in found}
    for fact in _OUR_NEEDS:
        if asked and f"ours:{fact}" not in done:
            yield from _lacking(f"ours:{fact}", (fact,), facts, "cgpu doctor")


def _matrices_not_observed(dataset: Dataset, facts: Facts, done: Container[str]) -> Iterator[Check]:
    for matrix in MATRICES:
        if matrix not in done:
            yield from _lacking(matrix, ("cgpu", matrix), facts, dataset.source)


def _issues_not_observed(dataset: Dataset, facts: Facts, done: Container[str]) -> Iterator[Check]:
    for issue in dataset.issues.values():
        if f"issue:{issue.id}" not in done and not issue.explain_only and not _ruled_out(issue, facts):
            yield from _lacking(f"issue:{issue.id}", _needs(issue), facts, issue.source)


def _requirements_not_observed(dataset: Dataset, state: node_checks.NodeState, done: Container[str]) -> Iterator[Check]:
    for requirement in dataset.requirements.values():
        if requirement.label in state.label_texts and f"requirement:{requirement.id}" not in done:
            yield from _lacking(f"requirement:{requirement.id}", (requirement.fact,), state.facts, requirement.source)


def _needs(issue: Issue) -> tuple[str, ...]:
    """The facts that decide whether the issue is here."""
    conditions = ("driver" if name == "driver_released_after" else name for name in issue.when)
    return (*(("cgpu",) if issue.affected is not None else ()), *conditions)


def _ruled_out(issue: Issue, facts: Facts) -> bool:
    """Whether what is known is enough to say that the issue is not here."""
    version = facts.version("cgpu")
    if issue.fixed is not None and version is not None and issue.fixed.holds(parse_version("cgpu", version)):
        return True
    return any(_fails(condition, name, facts) for name, condition in issue.when.items())


def _fails(condition: object, name: str, facts: Facts) -> bool:
    if isinstance(condition, bool):
        return facts.value(name) is (not condition)
    version = facts.value(name) if name in facts else None
    if not isinstance(condition, Rule) or not isinstance(version, str) or version == ABSENT:
        return False
    return not condition.holds(parse_version(name, version))


def _lacking(name: str, needs: tuple[str, ...], facts: Facts, source: str) -> Iterator[Check]:
    """The check that could not be made, and why, unless every fact that it needs is known."""
    missing = {fact: _reason(facts, fact) for fact in needs if facts.value(fact) in (None, ABSENT)}
    if not missing:
        return
    value = facts.value(needs[-1])
    reasons = "; ".join(f"{fact}: {reason}" for fact, reason in missing.items())
    ways = list(dict.fromkeys(_WAYS[fact] for fact in missing if fact in _WAYS))
    yield Check(
        name,
        Verdict.NOT_OBSERVED,
        value if isinstance(value, str) and needs[-1] not in missing else "",
        f"not known: {reasons}",
        source,
        "; ".join(ways) or f"give {_listed(missing)} in a file for --facts",
    )


def _reason(facts: Facts, name: str) -> str:
    fact = facts[name]
    return f"there is none on the node ({fact.how})" if fact.known else fact.how


def _listed(names: Mapping[str, str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
