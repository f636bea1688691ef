"""The demo's live picture: redrawn in a terminal, a log of lines anywhere else."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final

from cgpu.cli import render
from cgpu.model.units import format_memory

_BAR: Final = 24
_LOG_LINES: Final = 6
_LOG_SECONDS: Final = 3.0
_NS: Final = 1e9
_RECENT_NS: Final = 2 * 10**9
_HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"


@dataclass(frozen=True, slots=True)
class Line:
    """What one tenant asked for, and what it got. ``kept``: neither quota nor share was missed."""

    name: str
    weight: int
    quota_bytes: int
    memory_bytes: int
    asked_percent: float | None
    got_percent: float | None
    kept: bool
    note: str

    def cells(self) -> tuple[str, ...]:
        """A row of the last table."""
        return (
            self.name,
            str(self.weight),
            format_memory(self.quota_bytes),
            render.mebibytes(self.memory_bytes),
            "-" if self.asked_percent is None else f"{self.asked_percent:.1f}%",
            "-" if self.got_percent is None else f"{self.got_percent:.1f}%",
            "kept" if self.kept else "MISSED",
            self.note,
        )

    def as_json(self) -> dict[str, Any]:
        """The same, for machines."""
        return asdict(self)


class Picture:
    """Draws what the agent tells. ``quiet`` draws nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._title = ""
        self._quiet = quiet
        self._live = sys.stdout.isatty()
        self._log: list[str] = []
        self._busy: dict[str, deque[tuple[int, int]]] = {}  # tenant -> time, busy
        self._logged_ns = 0

    def begin(self, title: str) -> None:
        """What it is a picture of."""
        self._title = title
        if not self._live and not self._quiet:
            print(title, flush=True)

    def say(self, text: str) -> None:
        """An event."""
        self._log.append(text)
        if not self._live and not self._quiet:
            print(f"* {text}", flush=True)

    def draw(self, gpu: dict[str, Any], tenants: list[dict[str, Any]], now_ns: int) -> None:
        """The state now."""
        if self._quiet:
            return
        if self._live:
            rows = [self._row(tenant, now_ns) for tenant in _ordered(tenants)]
            memory = f"card: {render.mebibytes(gpu['used_bytes'])} of {render.mebibytes(gpu['total_bytes'])} in use"
            policy = f"policy {render.policy_name(gpu['policy'])}"
            log = [f"* {text}" for text in self._log[-_LOG_LINES:]]
            print(_HOME_AND_CLEAR + "\n".join([self._title, f"{memory}, {policy}", "", *rows, "", *log]), flush=True)
        elif now_ns - self._logged_ns >= _LOG_SECONDS * _NS:
            self._logged_ns = now_ns
            print("  " + "; ".join(self._brief(tenant, now_ns) for tenant in _ordered(tenants)), flush=True)

    def close(self) -> None:
        """Leave the last picture standing."""
        if not self._quiet:
            print(flush=True)

    def _row(self, tenant: dict[str, Any], now_ns: int) -> str:
        share = tenant["shares"][0]
        memory = share["used_bytes"] / share["memory_bytes"]
        percent = self._recent(tenant, now_ns)
        used = f"{render.mebibytes(share['used_bytes'])}/{render.mebibytes(share['memory_bytes'])}"
        return (
            f"{tenant['name']:<8} weight {share['weight']}  memory {_bar(memory)} {used:<18}"
            f" time {_bar(percent / 100)} {percent:5.1f}%  refused {share['oom_count']}  {render.layers(share)}"
        )

    def _brief(self, tenant: dict[str, Any], now_ns: int) -> str:
        share = tenant["shares"][0]
        return (
            f"{tenant['name']} {render.mebibytes(share['used_bytes'])} {self._recent(tenant, now_ns):.0f}% of the time"
        )

    def _recent(self, tenant: dict[str, Any], now_ns: int) -> float:
        """Share of the card's time in the last two seconds: long beside a turn, whose time is told at its end."""
        seen = self._busy.setdefault(tenant["id"], deque())
        seen.append((now_ns, int(tenant["shares"][0]["busy_ns"])))
        while len(seen) > 1 and seen[1][0] <= now_ns - _RECENT_NS:
            seen.popleft()
        (then, before), (now, busy) = seen[0], seen[-1]
        return 100 * (busy - before) / (now - then) if now > then else 0.0


def _ordered(tenants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(tenants, key=lambda tenant: (tenant["shares"][0]["weight"], tenant["name"]))


def _bar(fraction: float) -> str:
    filled = round(_BAR * min(max(fraction, 0.0), 1.0))
    return "[" + "#" * filled + "." * (_BAR - filled) + "]"
