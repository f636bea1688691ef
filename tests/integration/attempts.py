"""Measurements of time on a machine that others use too.

A busy machine starves clients and arbiter alike, which takes time away from the card and shifts
shares. So a measurement has three attempts, and where all of them miss while the machine let a
sleeping process oversleep for more than three thousandths of the time, that is said instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import pytest

from tests.native.gate_machine import stalls

ATTEMPTS: Final = 3
STALLED: Final = 0.003

Watch = Callable[[], AbstractContextManager[None]]
"""Goes around what is measured, and nothing else."""


def until_right(attempt: Callable[[int, Watch], str]) -> None:
    """Calls ``attempt`` with 0, 1, 2 until it finds nothing wrong; what it returns is what is wrong."""
    wrong, stalled = [], list[float]()
    for number in range(ATTEMPTS):
        verdict = attempt(number, lambda: stalls(stalled))
        if not verdict:
            return
        wrong.append(f"{verdict} (machine stalled {stalled[-1]:.1%})")
    if min(stalled) > STALLED:
        pytest.skip(f"the machine is too busy to measure: {'; '.join(wrong)}")
    pytest.fail("; ".join(wrong))
