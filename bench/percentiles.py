"""Percentiles of what was measured."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent are not above."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(percent * 100) // 10_000) - 1)]
