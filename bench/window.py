"""What happened on a card between two looks at it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """A card at one instant, and what the arbiter had charged at its last heartbeat before."""

    time_ns: int
    busy_ns: int
    busy_by_pid: dict[int, int]
    beat_ns: int
    held_by_pid: dict[int, int]


@dataclass(frozen=True)
class Window:
    """Parts of the time between two looks, per client."""

    card: tuple[float, ...]
    """In which the card worked for it: the card's truth."""
    held: tuple[float, ...]
    """In which it held the card, from grant to drain: the arbiter's charge. Empty without tenants."""
    busy: float
    """In which the card worked for anybody."""

    @classmethod
    def between(cls, before: Look, after: Look, pids: Sequence[int], *, tenants: bool) -> Window:
        """Of these clients."""
        elapsed_ns = after.time_ns - before.time_ns
        beats_ns = max(after.beat_ns - before.beat_ns, 1)

        def worked(pid: int) -> float:
            return (after.busy_by_pid[pid] - before.busy_by_pid.get(pid, 0)) / elapsed_ns

        def held(pid: int) -> float:
            return (after.held_by_pid[pid] - before.held_by_pid[pid]) / beats_ns

        return cls(
            card=tuple(worked(pid) for pid in pids),
            held=tuple(held(pid) for pid in pids) if tenants else (),
            busy=(after.busy_ns - before.busy_ns) / elapsed_ns,
        )
