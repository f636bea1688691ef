"""What a run of this suite has shown, as values, JSON and Markdown: to be sent by whoever has a card. Pure.

It says what card, driver, kernel and layer it was, and of every check how it ended. It has no name of a machine, of a
person or of a file in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

FORMAT: Final = 1
_SAID_MAX: Final = 300
_PATH: Final = re.compile(r"~?(?:/[\w.@+-]+){2,}/?")
_UUID: Final = re.compile(r"GPU-[0-9a-f-]{8,}")


@dataclass(frozen=True)
class Figure:
    """One number, or word, that a check has found."""

    name: str
    value: float | str
    unit: str = ""
    asked: str = ""
    """What it is to be; empty: nothing is asked."""

    def text(self) -> str:
        """In words."""
        value = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        asked = f" (asked: {self.asked})" if self.asked else ""
        return f"{self.name} {value}{' ' if self.unit else ''}{self.unit}{asked}"


@dataclass
class Findings:
    """What one check finds on its way."""

    figures: list[Figure] = field(default_factory=list)
    ways: list[tuple[str, str]] = field(default_factory=list)
    """What was tried, and what came of it."""

    def add(self, name: str, value: float | str, unit: str = "", asked: str = "") -> None:
        """One figure more."""
        self.figures.append(Figure(name, value, unit, asked))


@dataclass(frozen=True)
class Check:
    """One test and how it ended."""

    area: str
    name: str
    verdict: str
    """passed, failed or skipped."""
    seconds: float
    said: str = ""
    """Why it failed, or was skipped."""
    findings: Findings = field(default_factory=Findings)


@dataclass(frozen=True)
class About:
    """What it ran on."""

    simulated: bool
    card: str
    memory_bytes: int
    driver: str
    memory_layer: str
    """Of a tenant of ``cgpu run``: what holds its quota."""
    memory_layers: tuple[str, ...]
    """That this card has for tenants that could use them."""
    compute_layer: str
    kernel: str
    cgroups: str
    machine: str
    load: float
    """How many processes wanted a processor when the run began: beside others, figures of time mean little."""
    cgpu: str
    day: str


def without_names(text: str, *more: str) -> str:
    """The first line, without paths, cards' UUIDs and what else is named."""
    line = _UUID.sub("GPU", _PATH.sub("PATH", text.strip().partition("\n")[0]))
    for word in filter(None, more):
        line = re.sub(rf"\b{re.escape(word)}\b", "NAME", line)
    return line[:_SAID_MAX]


def check_name(node: str) -> tuple[str, str]:
    """Area and sentence of a test by its node ID."""
    path, _, test = node.partition("::")
    function, bracket, parameters = test.partition("[")
    area = path.rpartition("/")[2].removeprefix("test_").removesuffix(".py")
    return area, function.removeprefix("test_").replace("_", " ") + (f" [{parameters}" if bracket else "")


def totals(checks: Sequence[Check]) -> dict[str, int]:
    """How many ended how."""
    counted = Counter(check.verdict for check in checks)
    return {verdict: counted[verdict] for verdict in ("passed", "failed", "skipped")}


def document(about: About, checks: Sequence[Check]) -> dict[str, Any]:
    """As JSON."""
    return {
        "format": FORMAT,
        "simulated": about.simulated,
        "about": asdict(about),
        "totals": totals(checks),
        "checks": [asdict(check) for check in checks],
    }


def markdown(about: About, checks: Sequence[Check]) -> str:
    """To be read, or put into an issue."""
    kind = "a SIMULATED GPU: no word about a real one" if about.simulated else "a real GPU"
    rows = {
        "card": f"{about.card}, {about.memory_bytes / (1 << 30):.1f} GiB{', simulated' if about.simulated else ''}",
        "driver": about.driver,
        "memory layer in force": f"{about.memory_layer} (there are: {', '.join(about.memory_layers)})",
        "compute layer in force": about.compute_layer,
        "kernel": about.kernel,
        "cgroups": about.cgroups,
        "machine": f"{about.machine}; load {about.load:.1f} when the run began",
        "cgpu": f"{about.cgpu}, {about.day}",
    }
    counted = ", ".join(f"{count} {verdict}" for verdict, count in totals(checks).items())
    lines = [f"# cgpu on {kind}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    lines += ["", f"{counted}.", "", "| area | check | verdict | found |", "|---|---|---|---|"]
    for check in checks:
        found = "; ".join([*(figure.text() for figure in check.findings.figures), *filter(None, [check.said])])
        lines.append(f"| {check.area} | {_cell(check.name)} | {check.verdict} | {_cell(found)} |")
    ways = [way for check in checks for way in check.findings.ways]
    if ways:
        lines += ["", "## Ways that were tried", "", "| way | outcome |", "|---|---|"]
        lines += [f"| {_cell(way)} | {_cell(outcome)} |" for way, outcome in ways]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
