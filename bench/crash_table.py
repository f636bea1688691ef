"""What a storm has shown, and whether that is as it has to be. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

GONE_MS: Final = 1_000.0
RATE: Final = 0.5
"""The least part of its calls before that a neighbour may have: the host's processors are everybody's."""
STOPPED_RATE: Final = 0.3
"""The same beside a process that stands still: what it had launched counts as unfinished, as nobody says otherwise, and
others wait for it two quanta long at the end of each of its turns; it pays for them."""


@dataclass
class Result:
    """One storm. A figure that it has not is None."""

    storm: str
    events: int = 0
    hangs: int = 0
    over: int = 0
    """Looks at the card at which a tenant held more than its quota."""
    samples: int = 0
    fullest: float = 0.0
    """The most that a tenant has held, as a part of its quota."""
    gone_ms: list[float] = field(default_factory=list)
    """From each death, and the card's release of what the dead held, until the charge was gone."""
    rates: tuple[float, float] | None = None
    """A neighbour's calls per second before the storm and in it."""
    worst_ms: tuple[float, float] | None = None
    """The survivors' longest call that waits for nothing, and the longest that may wait for a slot."""
    named_ms: float | None = None
    """From the beginning of the fault until the agent named it."""
    least_kept: float = RATE
    note: str = ""
    misses: list[str] = field(default_factory=list)
    """What else is not as it has to be."""

    @property
    def kept(self) -> float | None:
        """The part of its calls that a neighbour has kept."""
        return None if self.rates is None or not self.rates[0] else self.rates[1] / self.rates[0]

    def wrong(self) -> list[str]:
        """All that is not as it has to be."""
        found = list(self.misses)
        if self.hangs:
            found.append(f"{self.hangs} calls hung")
        if self.over:
            found.append(f"over quota in {self.over} of {self.samples} looks")
        if self.gone_ms and max(self.gone_ms) > GONE_MS:
            found.append(f"a dead charge was gone after {max(self.gone_ms):.0f} ms")
        if self.named_ms is not None and self.named_ms > GONE_MS:
            found.append(f"named after {self.named_ms:.0f} ms")
        if self.kept is not None and self.kept < self.least_kept:
            found.append(f"a neighbour kept {self.kept:.0%} of its calls")
        return found


_HEADER: Final = (
    "storm", "events", "hangs", "over quota", "fullest", "charge gone, ms (median / worst)",
    "a neighbour's calls/s (before / in it)", "survivors' longest call, ms (memory / launch)", "named after",
    "as it should",
)  # fmt: skip


def _cells(row: Result) -> tuple[str, ...]:
    gone = f"{statistics.median(row.gone_ms):.0f} / {max(row.gone_ms):.0f}" if row.gone_ms else "-"
    rates = f"{row.rates[0]:.0f} / {row.rates[1]:.0f}" if row.rates else "-"
    worst = f"{row.worst_ms[0]:.0f} / {row.worst_ms[1]:.0f}" if row.worst_ms else "-"
    named = "-" if row.named_ms is None else f"{row.named_ms:.0f} ms"
    over = f"{row.over} of {row.samples}" if row.samples else "-"
    fullest = f"{row.fullest:.0%}" if row.samples else "-"
    wrong = "; ".join(row.wrong()) or "yes"
    return row.storm, str(row.events), str(row.hangs), over, fullest, gone, rates, worst, named, wrong


def markdown(rows: Iterable[Result]) -> str:
    """The table, as in docs/crashes.md."""
    lines = [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def text(row: Result) -> str:
    """One storm, to be read as it ends."""
    parts = [f"{title}: {cell}" for title, cell in zip(_HEADER[1:], _cells(row)[1:], strict=True) if cell != "-"]
    note = f"\n  {row.note}" if row.note else ""
    return f"{row.storm}\n  {'; '.join(parts)}{note}"


def document(rows: Sequence[Result], machine: dict[str, object]) -> dict[str, Any]:
    """All of it, as JSON."""
    return {
        "machine": machine,
        "storms": [
            {
                "storm": row.storm, "events": row.events, "hangs": row.hangs, "over_quota": row.over,
                "looks": row.samples, "fullest": round(row.fullest, 4), "gone_ms": [round(ms, 1) for ms in row.gone_ms],
                "neighbour_calls_per_s": row.rates, "survivors_worst_ms": row.worst_ms, "named_ms": row.named_ms,
                "note": row.note, "wrong": row.wrong(),
            }
            for row in rows
        ],
    }  # fmt: skip
