"""What has to be known of all nodes before the first of them is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgpu.compat.dataset import Dataset
from cgpu.compat.verdict import Verdict
from cgpu.doctor.outcome import Exit, Report, exit_of


@dataclass(slots=True)
class Totals:
    """Counts over all nodes; a few hundred bytes, however many there are."""

    dataset: Dataset
    """The data that the nodes were checked against."""

    nodes: dict[Verdict, int] = field(default_factory=dict)
    """Nodes, by their verdicts."""

    beside: dict[Verdict, int] = field(default_factory=dict)
    """Reports that are of no node, by their verdicts."""

    checks: dict[Verdict, int] = field(default_factory=dict)
    """Checks of all nodes, by their verdicts."""

    names: dict[str, None] = field(default_factory=dict)
    """The names of all checks, in the order in which they came."""

    def add(self, report: Report) -> None:
        """One more report."""
        counts = self.nodes if report.of_node else self.beside
        counts[report.verdict] = counts.get(report.verdict, 0) + 1
        for check in report.checks:
            self.checks[check.verdict] = self.checks.get(check.verdict, 0) + 1
            self.names[check.name] = None

    @property
    def count(self) -> int:
        """How many nodes."""
        return sum(self.nodes.values())

    @property
    def verdict(self) -> Verdict:
        """The worst report's; ``not observed`` where there is none."""
        return min((*self.nodes, *self.beside), key=lambda verdict: verdict.rank, default=Verdict.NOT_OBSERVED)

    @property
    def exit_code(self) -> Exit:
        """What ``cgpu doctor`` exits with."""
        return exit_of((*self.nodes, *self.beside))

    @property
    def data(self) -> str:
        """The data, its date, and the files of the user's own that lie over it, for people."""
        own = "".join(f", with {name}" for name in self.dataset.own)
        return f"{self.dataset.name}, {self.dataset.date.isoformat()}{own}"


def counted(counts: dict[Verdict, int]) -> str:
    """Such as ``2 unsupported, 1 unknown``; the worst first."""
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts.get(verdict))
