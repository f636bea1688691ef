"""Alibaba's cGPU against a node: one check for each matrix, known issue and requirement. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from cgpu.compat.dataset import MATRICES, Dataset, Issue, Requirement, Row
from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Check, Verdict, worst_first
from cgpu.compat.versions import Version, instance_family, known, parse_version

VERSIONS: Final = ("cgpu", "driver", "toolkit", "kernel", "kubernetes", "installer", "docker")
_WORDS: Final = {
    "driver": "driver series {}",
    "instance": "instance family {}",
    "toolkit": "nvidia-container-toolkit {}",
    "kernel": "kernel {}",
}


@dataclass(frozen=True, slots=True)
class _Said:
    """What a matrix or an issue says; None: it says nothing."""

    verdict: Verdict | None
    rule: str
    source: str


def check(dataset: Dataset, given: Mapping[str, Any]) -> tuple[Check, ...]:
    """All checks that the given facts allow, the worst first.

    ``given`` has plain values by the names of the facts: ``cgpu``, ``driver``, ``kernel``,
    ``toolkit``, ``instance``, ``kubernetes``, ``installer``, ``docker`` (texts), ``container_os``
    (bool), ``labels`` and ``pods_per_gpu`` (mappings). What is missing, None or ``none`` is not checked.
    Raises FactError, which names the fact, for a malformed value.
    """
    facts = _Facts(dataset, known(given))
    checks = [*_matrices(facts), *_issues(facts), *_requirements(facts), *_installer(facts)]
    return worst_first(checks)


def not_checked(dataset: Dataset, given: Mapping[str, Any]) -> dict[str, str]:
    """The checks that want another fact, by name, and which facts those are."""
    facts = _Facts(dataset, known(given))
    wanted = {table: table for table in MATRICES if facts.cgpu is not None and table not in facts.given}
    for issue in dataset.issues.values():
        missing = _missing(facts, issue)
        if missing and facts.cgpu is not None and (issue.affected is None or issue.affected.holds(facts.cgpu)):
            wanted[f"issue:{issue.id}"] = ", ".join(missing)
    return wanted


class _Facts:
    """The given facts, parsed."""

    def __init__(self, dataset: Dataset, given: Mapping[str, Any]) -> None:
        self.dataset = dataset
        self.given = given
        self.versions = {name: parse_version(name, given[name]) for name in VERSIONS if name in given}
        self.cgpu = self.versions.get("cgpu")
        self.family = instance_family(given["instance"]) if "instance" in given else None
        labels: Mapping[str, str] = given.get("labels", {})
        self.labels = {f"{name}={value}" for name, value in labels.items()}

    def released(self) -> date | None:
        """When the driver came out, or a day that it came out on or after; None: not known."""
        driver = self.versions["driver"]
        for release in self.dataset.releases.values():
            version = Version.of(release.version)
            if version == driver or (len(version.numbers) == 1 and version.numbers[0] == driver.numbers[0]):
                return release.released
        return None


# ---- matrices


def _matrices(facts: _Facts) -> Iterator[Check]:
    if facts.cgpu is None:
        return
    for table in MATRICES:
        if table not in facts.given:
            continue
        said = _matrix_says(facts, table)
        for issue in facts.dataset.issues.values():
            if issue.about == table:
                said = _with_issue(facts, said, issue)
        verdict = said.verdict or Verdict.UNKNOWN
        advice = "" if verdict is Verdict.SUPPORTED else _change(facts, table)
        yield Check(table, verdict, str(facts.given[table]), said.rule, said.source, advice)


def _matrix_says(facts: _Facts, table: str) -> _Said:
    """The matrix alone."""
    assert facts.cgpu is not None
    value = _value_in(facts, table)
    words = _WORDS[table].format(value)
    row = facts.dataset.row(table, facts.cgpu)
    if row is None:
        spans = ", ".join(sorted(row.span for row in facts.dataset.rows[table]))
        return _Said(None, f"no row names cGPU {facts.cgpu}: there are rows for {spans}", _table_source(facts, table))
    supported = _names(facts, table, row.supported)
    refused = _names(facts, table, row.unsupported)
    if supported is True:
        return _Said(Verdict.SUPPORTED, f"cGPU {row.span}: {words} is supported{_limit(facts, table, row)}", row.source)
    if supported is False or refused:
        return _Said(
            Verdict.UNSUPPORTED, f"cGPU {row.span}: {words} is not supported{_limit(facts, table, row)}", row.source
        )
    return _Said(None, f"cGPU {row.span}: the row does not name {words}", row.source)


def _names(facts: _Facts, table: str, entries: tuple[Rule, ...] | tuple[str, ...]) -> bool | None:
    """True: an entry holds. False: one speaks of the value, but it is beyond its limit. None: none speaks of it."""
    if table == "instance":
        return True if facts.family in entries else None
    version = facts.versions[table]
    rules = [entry for entry in entries if isinstance(entry, Rule) and entry.names(version)]
    return any(rule.holds(version) for rule in rules) if rules else None


def _limit(facts: _Facts, table: str, row: Row) -> str:
    """The row's limit of the series that the value is in."""
    if table == "instance":
        return ""
    version = facts.versions[table]
    rules = [entry for entry in row.supported if isinstance(entry, Rule) and entry.series is not None]
    limits = [rule.high for rule in rules if rule.names(version) and rule.high is not None]
    return f" up to {limits[0]}" if limits else ""


def _value_in(facts: _Facts, table: str) -> str:
    """What the words of a rule name: the family, or the version or its series."""
    if table == "instance":
        return facts.family or ""
    version = facts.versions[table]
    return str(version.numbers[0]) if table == "driver" else ".".join(map(str, version.numbers[:2]))


def _table_source(facts: _Facts, table: str) -> str:
    return f"{facts.dataset.source}, table {table}"


def _with_issue(facts: _Facts, said: _Said, issue: Issue) -> _Said:
    """The matrix and a known issue about the same thing.

    Where no row speaks the issue decides. Where a row says that what the issue describes is
    supported, the source contradicts itself.
    """
    other = _issue_says(facts, issue)
    if other is None or other.verdict is not Verdict.UNSUPPORTED:
        return said
    if said.verdict is None:
        return _Said(Verdict.UNSUPPORTED, f"{said.rule}; known issue {issue.id}: {other.rule}", issue.source)
    if said.verdict is Verdict.SUPPORTED:
        return _Said(
            Verdict.CONFLICT, f"{said.rule}, but known issue {issue.id}: {other.rule}", f"{said.source}; {issue.source}"
        )
    return said


def _change(facts: _Facts, table: str) -> str:
    """Which versions of cGPU would support the value as it is."""
    spans = [row.span for row in facts.dataset.rows[table] if _names(facts, table, row.supported)]
    if not spans:
        return f"no version of cGPU is known to support {_WORDS[table].format(_value_in(facts, table))}"
    return f"supported by cGPU {', '.join(spans)}"


# ---- known issues


def _issues(facts: _Facts) -> Iterator[Check]:
    for issue in facts.dataset.issues.values():
        said = _issue_says(facts, issue)
        if said is None or said.verdict is None:
            continue
        verdict, rule = said.verdict, said.rule
        if verdict is Verdict.UNSUPPORTED and _contradicted(facts, issue):
            verdict, rule = Verdict.CONFLICT, f"{rule}; the table {issue.about} says that this is supported"
        yield Check(
            f"issue:{issue.id}", verdict, _issue_value(facts, issue), rule, said.source,
            "" if verdict is Verdict.SUPPORTED else issue.fix,
        )  # fmt: skip


def _contradicted(facts: _Facts, issue: Issue) -> bool:
    if not issue.about or facts.cgpu is None or issue.about not in facts.given:
        return False
    return _matrix_says(facts, issue.about).verdict is Verdict.SUPPORTED


def _issue_says(facts: _Facts, issue: Issue) -> _Said | None:
    """None: the facts that it needs are not given."""
    if issue.explain_only or (issue.affected is not None and facts.cgpu is None):
        return None
    if issue.affected is not None and not _between_or_affected(facts, issue):
        return _Said(Verdict.SUPPORTED, f"affects cGPU {issue.affected.text} only", issue.source)
    if _missing(facts, issue):
        return None
    held, words = True, []
    for name, condition in issue.when.items():
        holds, said = _condition(facts, name, condition)
        words.append(said)
        if holds is None:
            return _Said(Verdict.UNKNOWN, said, issue.source)
        held = held and holds
    if not held:
        return _Said(Verdict.SUPPORTED, f"does not apply: {', '.join(words)}", issue.source)
    if issue.affected is None or facts.cgpu is None:
        return _Said(Verdict.UNSUPPORTED, ", ".join(words), issue.source)
    if issue.affected.holds(facts.cgpu):
        return _Said(Verdict.UNSUPPORTED, ", ".join([f"affects cGPU {issue.affected.text}", *words]), issue.source)
    return _Said(Verdict.CONFLICT, issue.between, issue.source)


def _between_or_affected(facts: _Facts, issue: Issue) -> bool:
    assert facts.cgpu is not None
    assert issue.affected is not None
    return issue.affected.holds(facts.cgpu) or (issue.fixed is not None and not issue.fixed.holds(facts.cgpu))


def _missing(facts: _Facts, issue: Issue) -> list[str]:
    needed = ["driver" if name == "driver_released_after" else name for name in issue.when]
    return [name for name in needed if name not in facts.given]


def _condition(facts: _Facts, name: str, condition: Any) -> tuple[bool | None, str]:
    """Whether it holds, and the words for what was found; None: that cannot be told."""
    if name == "driver_released_after":
        released = facts.released()
        driver = facts.versions["driver"]
        if released is None:
            return (
                None,
                f"the release date of driver {driver} is not known: the rule is about drivers after {condition}",
            )
        side = "after" if released > condition else "not after"
        return released > condition, f"driver {driver} came out {side} {condition}"
    if name == "pods_per_gpu":
        most = max(facts.given["pods_per_gpu"].values(), default=0)
        return condition.holds(Version.of(str(most))), f"{most} pods on a GPU, the rule is about {condition.text}"
    if isinstance(condition, bool):
        found = bool(facts.given[name])
        return found is condition, f"{name.replace('_', ' ')}: {'yes' if found else 'no'}"
    version = facts.versions[name]
    return condition.holds(version), f"{name} {version}, the rule is about {condition.text}"


def _issue_value(facts: _Facts, issue: Issue) -> str:
    names = [name for name in ("cgpu", *issue.when) if name in facts.given]
    if "driver_released_after" in issue.when and "driver" in facts.given:
        names.append("driver")
    return ", ".join(f"{name} {_plain(facts.given[name])}" for name in names)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(max(value.values(), default=0)) if isinstance(value, Mapping) else str(value)


# ---- what features need, and the installer


def _requirements(facts: _Facts) -> Iterator[Check]:
    for requirement in facts.dataset.requirements.values():
        if requirement.fact not in facts.versions or (requirement.label and requirement.label not in facts.labels):
            continue
        version = facts.versions[requirement.fact]
        holds = requirement.needs.holds(version)
        if holds and not requirement.label:
            continue  # what everybody fulfils is no news
        verdict = Verdict.SUPPORTED if holds else Verdict.UNSUPPORTED
        rule = f"needs {requirement.fact} {requirement.needs.text}"
        yield Check(
            f"requirement:{requirement.id}", verdict, version.text, rule, requirement.source,
            "" if holds else _needs(requirement),
        )  # fmt: skip


def _needs(requirement: Requirement) -> str:
    because = f" (the node has the label {requirement.label})" if requirement.label else ""
    return f"{requirement.why}{because}"


def _installer(facts: _Facts) -> Iterator[Check]:
    """A component that is newer than what runs on the node."""
    if "installer" not in facts.versions or facts.cgpu is None:
        return
    installer = facts.versions["installer"]
    for row in facts.dataset.installers:
        try:
            component, brings = Rule.parse(row.installer), Rule.parse(row.cgpu)
        except ValueError:
            continue  # a row in words
        if not component.holds(installer):
            continue
        behind = not brings.holds(facts.cgpu)
        how = " (inferred)" if row.inferred else ""
        yield Check(
            "installer",
            Verdict.CONFLICT if behind else Verdict.SUPPORTED,
            f"ack-ai-installer {installer}, cGPU {facts.cgpu}",
            f"ack-ai-installer {row.installer} brings cGPU {row.cgpu}{how}",
            row.source,
            "the component has been upgraded and the node has not: upgrade cGPU on the node" if behind else "",
        )
        return
