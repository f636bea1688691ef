"""What ``cgpu top`` knows at a moment, and what a key, an answer or an outage makes of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

SORTS: Final = ("tenant", "gpu", "got", "asked", "memory", "wait", "oom")
_PERCENT: Final = 100

ShareKey = tuple[str, str]  # tenant id, GPU's UUID


@dataclass(frozen=True, slots=True)
class Look:
    """What the agent answered: the documents of ``/v1/gpus`` and ``/v1/tenants``."""

    gpus: Sequence[Mapping[str, Any]]
    tenants: Sequence[Mapping[str, Any]]
    monotonic_ns: int
    clock: str  # local time, for people
    waited_percent: Mapping[ShareKey, float] = field(default_factory=dict)  # of the time since the look before

    def after(self, before: Look | None) -> Look:
        """The same, with what each share waited since ``before``; a share that was not there then has no figure."""
        if before is None or before.monotonic_ns >= self.monotonic_ns:
            return self
        then, elapsed_ns = _waited_ns(before), self.monotonic_ns - before.monotonic_ns
        percents = {
            key: min(_PERCENT * (waited - then[key]) / elapsed_ns, _PERCENT)
            for key, waited in _waited_ns(self).items()
            if key in then and waited >= then[key]  # less: another agent counts from the beginning
        }
        return replace(self, waited_percent=percents)


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen, whatever its size."""

    interval_seconds: float
    shown: Look | None = None
    latest: Look | None = None  # ahead of ``shown`` in a pause
    trouble: str = ""  # why the agent does not answer now
    remedy: str = ""
    sort: str = SORTS[0]
    paused: bool = False
    helping: bool = False

    def answered(self, look: Look) -> View:
        """The agent has answered."""
        latest = look.after(self.latest)
        return replace(
            self, latest=latest, shown=self.shown if self.paused and self.shown else latest, trouble="", remedy=""
        )

    def failed(self, trouble: str, remedy: str) -> View:
        """The agent did not."""
        return replace(self, trouble=trouble, remedy=remedy)

    def pressed(self, key: str) -> View:
        """A key: s sort, p pause, ? help; any other changes nothing."""
        match key.lower():
            case "s":
                return replace(self, sort=SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)])
            case "p":
                return replace(self, paused=not self.paused, shown=self.latest)
            case "?":
                return replace(self, helping=not self.helping)
        return self


def _waited_ns(look: Look) -> dict[ShareKey, int]:
    return {
        (tenant["id"], share["gpu_uuid"]): share["waited_ns"] for tenant in look.tenants for share in tenant["shares"]
    }
