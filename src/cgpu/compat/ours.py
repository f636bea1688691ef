"""Our own cgpu against a node: the same kind of checks as for Alibaba's. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Final

from cgpu.compat.rules import Rule
from cgpu.compat.verdict import Check, Verdict, worst_first
from cgpu.compat.versions import Version, known, parse_version
from cgpu.errors import FactError

_DRIVER_LAYER: Final = Rule.parse(">=615")
_LAYER_SOURCE: Final = "NVML of driver r615: nvmlDeviceSetMemoryLimits_v1 limits a control group of version 2"


@dataclass(frozen=True, slots=True)
class Need:
    """What one fact must be."""

    id: str
    fact: str
    supported: tuple[Rule, ...]
    unsupported: tuple[Rule, ...]
    why: str
    source: str


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads((files("cgpu.compat") / "data" / "ours.toml").read_text())


def ours_date() -> date:
    """Of the shipped data about our own needs."""
    found: date = _document()["date"]
    return found


def about_ours() -> dict[str, Any]:
    """The same keys as for Alibaba's data: ``cgpu.compat.export.about``."""
    return {"name": "cgpu", "date": ours_date().isoformat(), "source": "what this cgpu needs", "own": []}


@cache
def needs() -> tuple[Need, ...]:
    """All of them, from the shipped data."""
    return tuple(
        Need(
            id=row["id"],
            fact=row["fact"],
            supported=tuple(Rule.parse(text) for text in row["supported"]),
            unsupported=tuple(Rule.parse(text) for text in row["unsupported"]),
            why=row["why"],
            source=row["source"],
        )
        for row in _document()["need"]
    )


def check_ours(given: Mapping[str, Any]) -> tuple[Check, ...]:
    """The checks that the given facts allow, named ``ours:<fact>``, the worst first.

    ``ours:alibaba`` says whether Alibaba's cGPU is on the node, and ``ours:layer`` which layer would
    enforce memory. Raises FactError for a malformed fact.
    """
    facts = known(given)
    checks = [_check(need, facts[need.fact]) for need in needs() if need.fact in facts]
    return worst_first([*checks, *_alibaba(given), *_layer(facts)])


def misfit(fact: str, value: str) -> tuple[Verdict, str]:
    """What our needs say of one version, and in words what is wrong with it: empty where it is supported.

    A text that is no version, as a component may report one, is not known.
    """
    try:
        (check,) = check_ours({fact: value})
    except FactError:
        return Verdict.UNKNOWN, f"the {fact} says that its version is {value!r}, which is no version"
    if check.verdict is Verdict.SUPPORTED:
        return check.verdict, ""
    if check.verdict is Verdict.UNSUPPORTED:
        return check.verdict, f"{fact} {value}: this cgpu {check.rule}"
    return check.verdict, f"{fact} {value} is not known to this cgpu: {check.rule}"


def _check(need: Need, value: Any) -> Check:
    version = Version.of(str(value)) if isinstance(value, int) else parse_version(need.fact, value)
    words = f"{need.fact} {', '.join(rule.text for rule in need.supported)}"
    if any(rule.holds(version) for rule in need.unsupported):
        return Check(
            f"ours:{need.id}", Verdict.UNSUPPORTED, str(value), f"needs {words}", need.source, f"upgrade: {need.why}"
        )
    if any(rule.holds(version) for rule in need.supported):
        return Check(f"ours:{need.id}", Verdict.SUPPORTED, str(value), words, need.source)
    return Check(f"ours:{need.id}", Verdict.UNKNOWN, str(value), f"known are {words}", need.source, need.why)


def _alibaba(given: Mapping[str, Any]) -> Iterator[Check]:
    """Two managers of a card never agree, so ours refuses a node that Alibaba's is active on."""
    if given.get("cgpu") is None and given.get("modules") is None:
        return
    version, modules = given.get("cgpu"), given.get("modules") or []
    active = version not in (None, "none") or bool(modules)
    value = f"cgpu {version or 'not known'}, modules {', '.join(modules) or 'none'}"
    rule = "Alibaba's cGPU must not be active on a node that ours manages"
    advice = (
        "uninstall Alibaba's cGPU from the node (or take the labels that turn it on away and reboot)" if active else ""
    )
    verdict = Verdict.UNSUPPORTED if active else Verdict.SUPPORTED
    yield Check("ours:alibaba", verdict, value, rule, "two schedulers of one card contradict each other", advice)


def _layer(facts: Mapping[str, Any]) -> Iterator[Check]:
    """Which layer would enforce memory; a weaker one is no fault."""
    if "driver" not in facts or "cgroup" not in facts:
        return
    driver = parse_version("driver", facts["driver"])
    hard = _DRIVER_LAYER.holds(driver) and facts["cgroup"] == 2
    layer = "driver" if hard else "shim"
    yield Check(
        "ours:layer",
        Verdict.SUPPORTED,
        f"driver {driver}, cgroup version {facts['cgroup']}",
        f"the layer {layer} would enforce memory; the layer driver needs driver r615 and cgroup version 2",
        _LAYER_SOURCE,
    )
