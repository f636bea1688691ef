"""Which cards the agent looks at when. Pure.

A look at a card with twenty tenants takes milliseconds, and keeps the API waiting. So the cards of a full host are
looked at one after the other, each once in a period, and at once where a process of theirs has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

Group = frozenset[str]
"""Cards, by UUID, that have to be looked at together."""


AGAIN_NS: Final = 150_000_000
"""So soon cards that were still are looked at again when something has changed: one look may not be enough."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done now."""

    groups: tuple[Group, ...]
    chores: bool
    """Whether to look after the tenants too, wherever they are: now and then, and when one may have ended."""


def groups_of(cards: Iterable[str], together: Iterable[Collection[str]]) -> tuple[Group, ...]:
    """The cards in groups: what a process holds is released when none of its tenant's cards has it any more.

    ``together``: the cards of each tenant, all of ``cards``. In the order of the groups' first cards.
    """
    group = {card: frozenset((card,)) for card in cards}
    for shared in together:
        merged = frozenset[str]().union(*(group[card] for card in shared if card in group))
        group |= dict.fromkeys(merged, merged)
    return tuple(dict.fromkeys(group.values()))


class Rounds:
    """When each group was looked at."""

    def __init__(self, period_ns: int, chores_ns: int) -> None:
        self._period_ns = period_ns
        self._every_chores_ns = chores_ns
        self._looked: dict[Group, int] = {}
        self._again: dict[Group, int] = {}
        self._turned_ns: int | None = None
        self._step_ns = 0
        self._chores_ns: int | None = None

    def turn(self, now_ns: int, groups: Collection[Group], touched: Collection[str], *, woken: bool) -> Turn:
        """At CLOCK_MONOTONIC ``now_ns``; ``groups``: all cards.

        ``touched``: cards of processes that have ended. ``woken``: a tenant has come, gone or changed, or its first
        process has ended.
        """
        self._looked = {group: self._looked[group] for group in groups if group in self._looked}
        self._again = {group: self._again[group] for group in groups if group in self._again}
        chosen = [
            group
            for group in groups
            if group not in self._looked
            or not group.isdisjoint(touched)
            or (group in self._again and now_ns >= self._again[group])
        ]
        if woken or self._turned_ns is None or now_ns - self._turned_ns >= self._step_ns:
            chosen += sorted(groups, key=lambda group: self._looked.get(group, -1))[:1]
            self._turned_ns = now_ns
        self._looked |= dict.fromkeys(chosen, now_ns)
        for group in chosen:
            self._again.pop(group, None)
        chores = woken or self._chores_ns is None or now_ns - self._chores_ns >= self._every_chores_ns
        if chores:
            self._chores_ns = now_ns
        return Turn(tuple(dict.fromkeys(chosen)), chores)

    def wait_ns(self, now_ns: int, stirred: Collection[Group], *, rests: bool) -> int:
        """After a turn at ``now_ns``: until the next one, if nothing happens before.

        ``stirred``: groups that were still until this turn. ``rests``: nothing has changed anywhere of late, so that a
        period may be twice as long.
        """
        self._step_ns = self._period_ns * (2 if rests else 1) // max(1, len(self._looked))
        self._again |= dict.fromkeys(stirred, now_ns + AGAIN_NS)
        assert self._turned_ns is not None
        return max(0, min((self._turned_ns + self._step_ns, *self._again.values())) - now_ns)
