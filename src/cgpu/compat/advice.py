"""What to change so that everything fits: the smallest version of cGPU that does, and what else must move. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cgpu.compat.alibaba import check
from cgpu.compat.dataset import Dataset
from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Check, Verdict
from cgpu.compat.versions import Version, instance_family, known, parse_version

_CHANGEABLE: Final = ("driver", "toolkit", "kernel")
"""In the order in which they are best changed."""

_NAMES: Final = {
    "cgpu": "cGPU",
    "driver": "the NVIDIA driver",
    "toolkit": "nvidia-container-toolkit",
    "kernel": "the kernel",
    "instance": "the instance",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change."""

    fact: str
    current: str
    """As given; empty where it is not known."""

    to: str
    """A version that does, such as could be given instead."""

    why: str

    def as_json(self) -> dict[str, str]:
        """The stable machine-readable form."""
        return {"fact": self.fact, "from": self.current, "to": self.to, "why": self.why}


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do."""

    possible: bool
    """False: nothing that is known makes everything fit."""

    changes: tuple[Change, ...]
    """cGPU first. Following them all, every check says ``supported``."""

    text: str

    @property
    def needed(self) -> bool:
        """Whether there is something to do."""
        return bool(self.changes) or not self.possible


def advise(dataset: Dataset, given: Mapping[str, Any]) -> Advice:
    """The advice for the given facts, which are those of ``alibaba.check``.

    Of the versions of cGPU that are not below the installed one the smallest is chosen that every
    check supports and no known issue affects; where there is none, the one with which the fewest
    other things must change. Raises FactError for a malformed fact.
    """
    facts = known(given)
    installed = parse_version("cgpu", facts["cgpu"]) if "cgpu" in facts else None
    if installed is not None and _fits(check(dataset, facts)):
        return Advice(possible=True, changes=(), text=f"cGPU {installed} fits: nothing need be changed")
    plans = list(_plans(dataset, facts, installed))
    if not plans:
        return Advice(possible=False, changes=(), text=_hopeless(dataset, facts, installed))
    version, others = min(plans, key=lambda plan: (len(plan[1]), plan[0]))
    changes = (*_cgpu_change(dataset, facts, installed, version), *others)
    return Advice(possible=True, changes=changes, text=_sentence(changes, version))


def fitting_versions(dataset: Dataset, given: Mapping[str, Any]) -> tuple[tuple[Version, Verdict], ...]:
    """The versions of cGPU that the data names, each with the worst verdict on it, ascending."""
    facts = known(given)
    found = []
    for version in dataset.versions:
        verdicts = [one.verdict for one in check(dataset, {**facts, "cgpu": version.text})]
        found.append((version, min(verdicts, key=lambda verdict: verdict.rank, default=Verdict.UNKNOWN)))
    return tuple(found)


def _fits(checks: Sequence[Check]) -> bool:
    return all(one.verdict is Verdict.SUPPORTED for one in checks)


def _plans(
    dataset: Dataset, facts: Mapping[str, Any], installed: Version | None
) -> Iterator[tuple[Version, tuple[Change, ...]]]:
    """Each version that can be advised, with what else must change for it."""
    candidates = {version for version in dataset.versions if version >= dataset.never_below}
    if installed is not None:
        candidates = {version for version in {*candidates, installed} if version >= installed}
    for version in sorted(candidates):
        moved = {**facts, "cgpu": version.text}
        others = []
        for fact in _CHANGEABLE:
            change = _change(dataset, moved, fact)
            if change is not None:
                others.append(change)
                moved[fact] = change.to
        if _fits(check(dataset, moved)):
            yield version, tuple(others)


def _change(dataset: Dataset, facts: Mapping[str, Any], fact: str) -> Change | None:
    """What the fact must become for this version of cGPU; None: it can stay, or nothing helps."""
    if fact not in facts or _fits(_about(dataset, facts, fact)):
        return None
    row = dataset.row(fact, parse_version("cgpu", facts["cgpu"]))
    if row is None:
        return None
    current = parse_version(fact, facts[fact])
    rules = [rule for rule in row.supported if isinstance(rule, Rule)]
    for target in _nearest(current, [text for rule in rules for text in _targets(dataset, fact, rule)]):
        moved = {**facts, fact: target}
        if _fits(_about(dataset, moved, fact)):
            allowed = ", ".join(rule.text.replace("<=", " up to ", 1) if rule.series else rule.text for rule in rules)
            return Change(fact, str(facts[fact]), target, f"cGPU {row.span} supports {fact} {allowed}")
    return None


def _about(dataset: Dataset, facts: Mapping[str, Any], fact: str) -> list[Check]:
    """The checks that depend on the fact: its matrix, the issues about it, the requirements on it."""
    names = {fact, *(f"issue:{issue.id}" for issue in dataset.issues.values() if issue.about == fact)}
    names |= {f"requirement:{one.id}" for one in dataset.requirements.values() if one.fact == fact}
    return [one for one in check(dataset, facts) if one.name in names]


def _targets(dataset: Dataset, fact: str, rule: Rule) -> list[str]:
    """Versions within the rule that can be named: known releases of a driver, the limit of anything else."""
    if fact == "driver":
        full = [text for text in dataset.releases if "." in text]
        return [text for text in full if rule.holds(Version.of(text))]
    if rule.series is not None:
        return [rule.high.text if rule.high else f"{rule.series}.10"]
    bound = rule.high or rule.low
    return [bound.text] if bound is not None and rule.relation in ("", "<=", ">=") else []


def _nearest(current: Version, targets: Sequence[str]) -> list[str]:
    """The next one above first, then upwards, then downwards: an upgrade is better than the way back."""
    versions = sorted(Version.of(text) for text in targets)
    above = [version.text for version in versions if version >= current]
    return above + [version.text for version in reversed(versions) if version < current]


def _cgpu_change(
    dataset: Dataset, facts: Mapping[str, Any], installed: Version | None, version: Version
) -> tuple[Change, ...]:
    if installed == version:
        return ()
    if installed is None:
        return (Change("cgpu", "", version.text, "the smallest version of cGPU that everything given fits"),)
    wrong = [one for one in check(dataset, facts) if one.verdict is not Verdict.SUPPORTED]
    why = "; ".join(f"{one.name} is {one.verdict.value} with cGPU {installed}" for one in wrong)
    return (Change("cgpu", installed.text, version.text, why),)


def _sentence(changes: Sequence[Change], version: Version) -> str:
    parts = []
    for change in changes:
        source = f" from {change.current}" if change.current else ""
        verb = "upgrade" if _rises(change) else "change"
        parts.append(f"{verb} {_NAMES[change.fact]}{source} to {change.to}")
    if not any(change.fact == "cgpu" for change in changes):
        parts.append(f"cGPU can stay at {version}")
    return "; ".join(parts)


def _rises(change: Change) -> bool:
    return not change.current or parse_version(change.fact, change.current) < parse_version(change.fact, change.to)


def _hopeless(dataset: Dataset, facts: Mapping[str, Any], installed: Version | None) -> str:
    latest = max(dataset.versions)
    if installed is not None and installed > latest:
        return (
            f"nothing can be advised: the data of {dataset.date} ends with cGPU {latest}, and {installed} is installed"
        )
    text = "nothing that is known makes everything fit"
    if "instance" in facts:
        family = instance_family(facts["instance"])
        rows = [row for row in dataset.rows["instance"] if row.high >= (installed or dataset.never_below)]
        known = {str(entry) for row in rows for entry in row.supported}
        if family not in known:
            text = (
                f"nothing makes everything fit on this node: no version of cGPU that could be advised is known to"
                f" support the instance family {family}; move to one of {', '.join(sorted(known))}"
            )
    return text + _still(dataset, facts, installed)


def _still(dataset: Dataset, facts: Mapping[str, Any], installed: Version | None) -> str:
    """What an upgrade would mend all the same."""
    if installed is None:
        return ""
    wrong = {one.name for one in check(dataset, facts) if one.verdict is not Verdict.SUPPORTED}
    best, mended = installed, set[str]()
    for version in dataset.versions:
        if version >= max(installed, dataset.never_below):
            checks = check(dataset, {**facts, "cgpu": version.text})
            left = {one.name for one in checks if one.verdict is not Verdict.SUPPORTED}
            if left < wrong and len(wrong - left) > len(mended):
                best, mended = version, wrong - left
    return f"; cGPU {best} would still mend {', '.join(sorted(mended))}" if mended else ""
