"""Busy tenants, and the truth about the time that each of them had.

On a real card every kernel writes down by the card's %globaltimer when it ran; on the simulated card
the machine's books say it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.gpu.conftest import Card

CLIENT: Final = Path(__file__).with_name("busy_client.py")
WARM_UP_SECONDS: Final = 1.5  # until the length of the kernels is known, and the first turns are over
Intervals = list[tuple[int, int]]


@dataclass(frozen=True)
class Division:
    """How a span of the card's time was divided; all in percent of the time."""

    shares: list[float]
    """Of the busy time, one per tenant."""
    busy: float
    """Of the whole span."""


class BusyTenant:
    """One tenant that never lets the card run dry."""

    def __init__(self, card: Card, name: str, weight: int, kernel_ns: int, how: str = "launches") -> None:
        kernel = "cgpu_spin" if card.machine else "cgpu_stamped_spin"
        command = (sys.executable, str(CLIENT), str(kernel_ns), how, kernel)
        self.process: subprocess.Popen[str] = card.start(
            name, *command, memory="2GiB", options=("--weight", str(weight))
        )

    def wait_until_busy(self) -> None:
        """Until its first kernels have run."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line == '"ready"\n', self.process.communicate()[1]

    def end(self) -> Intervals:
        """Let it end; its kernels' intervals, in order (none on the simulated card)."""
        output, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        return [(begin, end) for begin, end in json.loads(output)]


def measure(card: Card, tenants: list[BusyTenant], seconds: float) -> Division:
    """Let them compete for so long, end them, and say what each got."""
    for tenant in tenants:
        tenant.wait_until_busy()
    time.sleep(WARM_UP_SECONDS)
    if card.machine is None:
        time.sleep(seconds)
        return divide([tenant.end() for tenant in tenants], round(WARM_UP_SECONDS * 1e9))
    before, began = _books(card, tenants), time.monotonic_ns()
    time.sleep(seconds)
    after, ended = _books(card, tenants), time.monotonic_ns()
    for tenant in tenants:
        tenant.end()
    used = [late - early for early, late in zip(before, after, strict=True)]
    return Division([100 * one / sum(used) for one in used], 100 * sum(used) / (ended - began))


def divide(kernels: list[Intervals], warm_up_ns: int) -> Division:
    """What each had of the time in which all of them had work, but for the warm-up."""
    begin = max(rows[0][0] for rows in kernels) + warm_up_ns
    end = min(rows[-1][1] for rows in kernels)
    assert begin < end, "they did not compete"
    clipped = [
        [(max(low, begin), min(high, end)) for low, high in rows if low < end and high > begin] for rows in kernels
    ]
    used = [sum(high - low for low, high in rows) for rows in clipped]
    return Division([100 * one / sum(used) for one in used], 100 * _union_ns(clipped) / (end - begin))


def _union_ns(kernels: list[Intervals]) -> int:
    total, reached = 0, 0
    for low, high in sorted(row for rows in kernels for row in rows):
        total += max(0, high - max(low, reached))
        reached = max(reached, high)
    return total


def _books(card: Card, tenants: list[BusyTenant]) -> list[int]:
    assert card.machine
    rows = {row.pid: row.busy_ns for row in card.machine.status().cards[0].processes}
    return [rows[tenant.process.pid] for tenant in tenants]
