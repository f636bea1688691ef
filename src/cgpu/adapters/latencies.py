"""How long answers took: a histogram, in the text format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from itertools import accumulate
from typing import Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper ends of the histogram's parts; what takes longer is in one more."""

CONTENT_TYPE: Final = "text/plain; version=0.0.4"


class Latencies:
    """Safe for several threads."""

    def __init__(self, name: str, label: str, what: str) -> None:
        """``name`` of the metric, which ends with ``_seconds``; ``label`` tells its rows apart; ``what`` it is."""
        self._name = name
        self._label = label
        self._what = what
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, row: str, seconds: float) -> None:
        """Count one. There are few rows, whose names have no quotes."""
        with self._lock:
            counts = self._counts.setdefault(row, [0] * (len(BOUNDS_S) + 1))
            counts[bisect_left(BOUNDS_S, seconds)] += 1
            self._sums[row] = self._sums.get(row, 0.0) + seconds

    def text(self) -> str:
        """All that was counted."""
        with self._lock:
            counts = {row: list(accumulate(parts)) for row, parts in self._counts.items()}
            sums = dict(self._sums)
        lines = [f"# HELP {self._name} {self._what}", f"# TYPE {self._name} histogram"]
        for row, parts in sorted(counts.items()):
            label = f'{self._label}="{row}"'
            for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), parts, strict=True):
                lines.append(f'{self._name}_bucket{{{label},le="{bound}"}} {count}')
            lines.append(f"{self._name}_sum{{{label}}} {sums[row]:.6f}")
            lines.append(f"{self._name}_count{{{label}}} {parts[-1]}")
        return "\n".join(lines) + "\n"
