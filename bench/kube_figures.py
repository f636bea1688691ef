"""What the trials of the benchmark of a cluster come to: rates, latencies, a table, the bounds. Pure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench.kube_objects import Kind
from bench.memory import Memory

RATE_MIN: Final = 0.95
"""Of pods of ACK through the webhook, as a part of the rate of the same pods with claims."""

HANDLER_P99_S: Final = 0.05
_HEAD: Final = (
    "kind",
    "pods a second",
    "all created after",
    "processor time a pod",
    "of it the webhook",
    "/pods, median and p99",
    "/claims",
    "PSS of each webhook",
    "load before, after",
)
_BUCKET: Final = re.compile(r'^\w+_bucket\{path="([^"]+)",le="([^"]+)"\} (\d+)$', re.MULTILINE)


@dataclass(frozen=True)
class Batch:
    """Some pods of one kind."""

    pods: int
    created_s: float
    """Until the API server had taken all of them."""
    placed_s: float
    """From the first that was created to the last that was placed."""
    processor_s: Mapping[str, float]
    """By process."""


@dataclass(frozen=True)
class Trial:
    """One kind of pods."""

    kind: Kind
    nodes: int
    cards: int
    batches: Sequence[Batch]
    load: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Load averages of the machine before and after."""
    memory: Mapping[str, Memory]
    """By process, at the end."""
    metrics: Sequence[str] = field(default_factory=tuple)
    """Of each webhook, in the text format of Prometheus."""

    @property
    def pods(self) -> int:
        """All of them."""
        return sum(batch.pods for batch in self.batches)

    @property
    def rate(self) -> float:
        """Pods placed a second."""
        return self.pods / sum(batch.placed_s for batch in self.batches)

    @property
    def processor_s(self) -> Mapping[str, float]:
        """By process, those of our webhooks only where pods of this kind need them."""
        names = {name for batch in self.batches for name in batch.processor_s}
        return {name: sum(batch.processor_s[name] for batch in self.batches) for name in sorted(names)}

    @property
    def webhook_share(self) -> float:
        """The webhooks' part of the processor time of all processes of the control plane."""
        ours = sum(seconds for name, seconds in self.processor_s.items() if name.startswith("webhook"))
        return ours / sum(self.processor_s.values())

    def latencies(self) -> dict[str, Latency]:
        """Of the webhooks' answers, by path."""
        return latencies_of(self.metrics)


@dataclass(frozen=True)
class Latency:
    """A distribution that is known in steps."""

    count: int
    within: Mapping[float, int]
    """How many took no longer than so many seconds."""

    def percentile_s(self, percent: float) -> float:
        """The upper end of the step in which it is; infinite where that is beyond the last."""
        wanted = self.count * percent / 100
        return min((bound for bound, count in self.within.items() if count >= wanted), default=float("inf"))


def latencies_of(metrics: Iterable[str]) -> dict[str, Latency]:
    """Several processes' histograms together."""
    sums: dict[str, dict[float, int]] = {}
    for text in metrics:
        for path, bound, count in _BUCKET.findall(text):
            row = sums.setdefault(path, {})
            row[float(bound)] = row.get(float(bound), 0) + int(count)
    return {path: Latency(row[float("inf")], row) for path, row in sums.items()}


def beside(trials: Iterable[Trial]) -> tuple[float, float | None] | None:
    """The rate of pods of ACK as a part of that of the same pods with claims, and its standard error.

    By the batches that were placed one after the other: the machine, and how full the cluster is, are the same.
    One batch tells no error: None.
    """
    seconds = {trial.kind: [batch.placed_s for batch in trial.batches] for trial in trials}
    if Kind.ACK not in seconds or Kind.CLAIMS not in seconds:
        return None
    parts = [claims / ack for ack, claims in zip(seconds[Kind.ACK], seconds[Kind.CLAIMS], strict=True)]
    error = statistics.stdev(parts) / len(parts) ** 0.5 if len(parts) > 1 else None
    return statistics.fmean(parts), error


def verdict(trials: Sequence[Trial]) -> list[str]:
    """The bounds that are not kept."""
    missed = []
    found = beside(trials)
    if found is not None and found[0] < RATE_MIN:
        missed.append(f"pods of ACK are placed at {found[0]:.1%} of the rate of the same pods with claims")
    for path, latency in latencies_of(text for trial in trials for text in trial.metrics).items():
        if latency.percentile_s(99) > HANDLER_P99_S:
            missed.append(f"1 % of the answers to {path} took longer than {HANDLER_P99_S * 1000:.0f} ms")
    return missed


def document(machine: Mapping[str, Any], trials: Sequence[Trial]) -> dict[str, Any]:
    """JSON values of all of it. Null: an error that one batch does not tell, or a latency beyond the last step."""
    found = beside(trials)
    paired = None if found is None else {"mean": found[0], "standard_error": found[1]}
    values = [_values(trial) for trial in trials]
    return {"machine": dict(machine), "trials": values, "ack_beside_claims": paired, "missed": verdict(trials)}


def table(trials: Sequence[Trial]) -> str:
    """In Markdown, a row for each trial."""
    rows = [_HEAD, ("---",) * len(_HEAD), *map(_row, trials)]
    text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    found = beside(trials)
    if found is not None:
        error = "one batch: no error known" if found[1] is None else f"standard error {found[1]:.1%}"
        text += f"\nACK beside claims, batch by batch: {found[0]:.1%} of the rate, {error}\n"
    return text


def _row(trial: Trial) -> tuple[str, ...]:
    latencies = trial.latencies()
    memory = [row.pss / 1024 for name, row in trial.memory.items() if name.startswith("webhook")]
    return (
        str(trial.kind),
        f"{trial.rate:.1f}",
        f"{sum(batch.created_s for batch in trial.batches):.0f} s",
        f"{sum(trial.processor_s.values()) / trial.pods * 1000:.0f} ms",
        f"{trial.webhook_share:.1%}" if memory else "",
        _told(latencies.get("/pods")),
        _told(latencies.get("/claims")),
        ", ".join(f"{size:.0f} MiB" for size in memory),
        f"{trial.load[0][0]:.1f}, {trial.load[1][0]:.1f}",
    )


def _told(latency: Latency | None) -> str:
    if latency is None:
        return ""
    return ", ".join(_milliseconds(latency, percent) for percent in (50, 99))


def _milliseconds(latency: Latency, percent: float) -> str:
    value_s = latency.percentile_s(percent)
    if math.isfinite(value_s):
        return f"≤ {value_s * 1000:g} ms"
    return f"> {max(filter(math.isfinite, latency.within)) * 1000:g} ms"


def _finite(value_s: float) -> float | None:
    """JSON has no infinity."""
    return value_s if math.isfinite(value_s) else None


def _values(trial: Trial) -> dict[str, Any]:
    return {
        "kind": str(trial.kind),
        "nodes": trial.nodes,
        "cards": trial.cards,
        "pods": trial.pods,
        "placed_per_second": trial.rate,
        "batches": [asdict(batch) for batch in trial.batches],
        "load": trial.load,
        "processor_s": dict(trial.processor_s),
        "webhook_share_of_processor": trial.webhook_share,
        "memory": {name: memory.document() for name, memory in trial.memory.items()},
        "latency_s": {
            path: {str(percent): _finite(row.percentile_s(percent)) for percent in (50, 90, 99, 99.9)}
            | {"count": row.count}
            for path, row in trial.latencies().items()
        },
    }
