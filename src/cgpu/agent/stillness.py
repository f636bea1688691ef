"""Whether a look at a group of cards could find anything that the last one has not found. Pure.

Most tenants hold what they hold: they compute, or are idle. A look compares what their regions say with what the
cards say, and of the same readings comes the same result, once what has to last has lasted. So a glance at the
readings alone decides whether to look.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.attribution import STEADY_NS
from cgpu.agent.rounds import Group

LOOK_NS: Final = 60_000_000_000
"""So often everything is looked at, come what may: who moves into a tenant's cgroup shows in no reading."""


class Glance(NamedTuple):
    """What the cards of a group and the regions of their tenants say."""

    tenants: tuple[tuple[str, tuple[str, ...]], ...]
    """Their ids and cgroups."""
    words: bytes
    """Of their regions."""
    cards: tuple[tuple[tuple[GpuProcess, ...], int], ...]
    """By card: the processes on it, and its memory in use."""


class _Looked(NamedTuple):
    glance: Glance | None
    since_ns: int  # of the first look that came to its result from these readings
    last_ns: int


class Stillness:
    """Remembers of each group what was looked at last. Times are of one clock."""

    def __init__(self) -> None:
        self._looked: dict[Group, _Looked] = {}
        self._moving: set[Group] = set()
        self.stirred: tuple[Group, ...] = ()
        """Groups that were still until ``to_look_at`` was asked last."""

    @property
    def rests(self) -> bool:
        """Whether nothing has changed anywhere of late."""
        return not self._moving

    def to_look_at(self, glances: Mapping[Group, Glance | None], now_ns: int) -> tuple[Group, ...]:
        """Those of the groups where a look now may find something new. A glance of None: a card did not answer."""
        moving = {group for group, glance in glances.items() if not self._is_still(group, glance)}
        self.stirred = tuple(group for group in moving if group in self._looked and group not in self._moving)
        self._moving = self._moving.difference(glances).union(moving)
        return tuple(group for group in glances if group in moving or self._is_due(group, now_ns))

    def due_ns(self, glances: Mapping[Group, Glance | None]) -> int | None:
        """Until when a look at these groups finds nothing, if their readings stay so; None: one may find something now.

        All groups that there are.
        """
        if any(not self._is_still(group, glance) for group, glance in glances.items()):
            return None
        return min((self._looked[group].last_ns for group in glances), default=0) + LOOK_NS

    def looked(self, group: Group, glance: Glance | None, now_ns: int, *, ending: bool) -> None:
        """The group was looked at after that glance. ``ending``: what was found may change by itself."""
        last = self._looked.get(group)
        lasts = last is not None and glance is not None and glance == last.glance and not ending
        self._looked[group] = _Looked(glance, last.since_ns if last and lasts else now_ns, now_ns)

    def keep_only(self, groups: Collection[Group]) -> None:
        """Forget all other groups."""
        self._looked = {group: self._looked[group] for group in groups if group in self._looked}
        self._moving.intersection_update(groups)

    def _is_still(self, group: Group, glance: Glance | None) -> bool:
        last = self._looked.get(group)
        return (
            last is not None
            and glance is not None
            and glance == last.glance
            and last.last_ns - last.since_ns >= STEADY_NS
        )

    def _is_due(self, group: Group, now_ns: int) -> bool:
        return now_ns - self._looked[group].last_ns >= LOOK_NS
