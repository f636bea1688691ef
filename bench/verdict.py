"""Asked against got, and whether that is within the bound. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.cells import Cell, Reference
from bench.window import Window


@dataclass(frozen=True)
class Attempt:
    """One measurement of a cell, judged."""

    window: Window | None
    got: tuple[float, ...]
    """Of each tenant, in percent: to compare with what it asked."""
    error_points: float | None
    relative_busy: float | None
    """To the cell's reference."""
    latency_us: float | None
    """Beyond the driver's own time, at the probe's quantile."""
    stalled: float
    """How much of the time the host let a sleeper oversleep."""
    misses: tuple[str, ...]
    """What is not within its bound; empty: all is."""

    @property
    def ok(self) -> bool:
        """Whether all is within its bound."""
        return not self.misses


@dataclass(frozen=True)
class Result:
    """A cell and its attempts, in their order; the last one counts."""

    cell: Cell
    attempts: tuple[Attempt, ...]
    references: Mapping[Reference, float]
    """Busy shares of the card, of the work that this cell is compared with."""

    @property
    def last(self) -> Attempt:
        """The one that counts."""
        return self.attempts[-1]


def got_percent(cell: Cell, window: Window) -> tuple[float, ...]:
    """What each tenant got. Where it waits after each kernel: the time that it held the card."""
    parts = window.held if cell.load.held else window.card
    whole = 1.0 if cell.of_time else sum(parts)
    return tuple(100 * part / whole if whole else 0.0 for part in parts)


def judge(cell: Cell, window: Window, references: Mapping[Reference, float], stalled: float) -> Attempt:
    """One window of a cell."""
    got = got_percent(cell, window)
    error = max(abs(asked - had) for asked, had in zip(cell.tenants.asked, got, strict=True))
    relative = window.busy / references[cell.reference] if cell.reference else None
    misses = []
    if cell.bounds.points is not None and error > cell.bounds.points:
        misses.append(f"off by {error:.2f} points, bound {cell.bounds.points:g}")
    if relative is not None and cell.bounds.busy is not None and relative < cell.bounds.busy:
        misses.append(f"relative busy {relative:.1%}, bound {cell.bounds.busy:.0%}")
    return Attempt(window, got, error, relative, None, stalled, tuple(misses))


def judge_probe(cell: Cell, beyond_ns: Sequence[int], driver_ns: Sequence[int], stalled: float) -> Attempt:
    """Wake-ups of a cell's first tenant, and those of a client alone on the card without cgpu."""
    assert cell.probe is not None
    latency_us = (quantile(beyond_ns, cell.probe.quantile) - quantile(driver_ns, 0.5)) / 1e3
    misses = [f"{latency_us:.0f} us, bound {cell.probe.us:.0f} us"] if latency_us > cell.probe.us else []
    return Attempt(None, (), None, None, latency_us, stalled, tuple(misses))


def refused(message: str) -> Attempt:
    """The agent did not take the cell's policy or shares."""
    return Attempt(None, (), None, None, None, 0.0, (f"refused: {message}",))


def quantile(values: Sequence[int], part: float) -> float:
    """The value below which that part of them lies: the nearest of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# ---- to be read ----

HEADER = (
    f"{'cell':58}{'asked':>7}{'got':>7}{'error':>7}{'bound':>6}{'busy':>7}{'rel':>7}{'bound':>6}{'stall':>7}  verdict"
)


def row(result: Result) -> str:
    """One line of the table: the tenant with the worst error."""
    cell, last = result.cell, result.last
    tries = f" (attempt {len(result.attempts)})" if len(result.attempts) > 1 else ""
    verdict = ("ok" if last.ok else f"MISS {'; '.join(last.misses)}") + tries
    if last.latency_us is not None and cell.probe is not None:
        middle = f"{f'{last.latency_us:.0f} us at {cell.probe.quantile:.0%}, bound {cell.probe.us:.0f} us':>47}"
    elif last.window is None:
        middle = f"{'-':>47}"
    else:
        pairs = list(zip(cell.tenants.asked, last.got, strict=True))
        asked, got = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
        middle = (
            f"{asked:7.2f}{got:7.2f}{last.error_points:7.2f}{_or_dash(cell.bounds.points, '6g')}"
            f"{100 * last.window.busy:7.1f}"
            f"{_or_dash(last.relative_busy and 100 * last.relative_busy, '7.1f')}"
            f"{_or_dash(cell.bounds.busy and 100 * cell.bounds.busy, '6g')}"
        )
    return f"{cell.name:58}{middle}{100 * last.stalled:6.2f}%  {verdict}"


def document(result: Result) -> dict[str, Any]:
    """One row of the JSON document. Percentages are of the card's time or of what all tenants got."""
    cell = result.cell
    return {
        "cell": cell.name,
        "group": cell.group,
        "policy": dict(cell.policy),
        "kernel_ns": cell.load.kernel_ns,
        "kind": cell.load.kind,
        "sync": cell.load.sync,
        "tenants": [dict(change) for change in cell.tenants.changes],
        "idle_tenants": cell.tenants.idle,
        "asked_percent": list(cell.tenants.asked),
        "got_is": "held" if cell.load.held else "card",
        "part_of": "time" if cell.of_time else "all",
        "bound_points": cell.bounds.points,
        "bound_relative_busy": cell.bounds.busy,
        "bound_us": cell.probe.us if cell.probe else None,
        "reference": cell.reference.name if cell.reference else None,
        "references_busy_percent": {reference.name: 100 * busy for reference, busy in result.references.items()},
        "overlap_gain_points": _overlap_gain(result),
        "ok": result.last.ok,
        **_attempt(result.last),
        "attempts": [_attempt(attempt) for attempt in result.attempts],
    }


def _overlap_gain(result: Result) -> float | None:
    """How much busier the card is when clients that leave it idle overlap, as without cgpu."""
    cell, window = result.cell, result.last.window
    bare = Reference(cell.load, cell.tenants.count, tenants=False)
    if not cell.load.held or window is None or bare not in result.references:
        return None
    return 100 * (result.references[bare] - window.busy)


def _attempt(attempt: Attempt) -> dict[str, Any]:
    window = attempt.window
    return {
        "got_percent": list(attempt.got),
        "worst_error_points": attempt.error_points,
        "card_percent_of_time": [100 * part for part in window.card] if window else [],
        "held_percent_of_time": [100 * part for part in window.held] if window else [],
        "busy_percent": 100 * window.busy if window else None,
        "relative_busy": attempt.relative_busy,
        "latency_us": attempt.latency_us,
        "host_stalled": attempt.stalled,
        "misses": list(attempt.misses),
    }


def _or_dash(value: float | None, form: str) -> str:
    return f"{'-':>{form.rstrip('fg').split('.')[0]}}" if value is None else f"{value:{form}}"
