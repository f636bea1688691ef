"""Which cards the agent looks at when. Pure.

A look at a card with twenty tenants takes milliseconds, and keeps the API waiting. So the cards of a full host are
looked at one after the other, each once in a period, and at once where a process of theirs has ended.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

Group = frozenset[str]
"""Cards, by UUID, that have to be looked at together."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What is to be done now."""

    cards: Group
    chores: bool
    """Whether to look after the tenants too, wherever they are: once in a period, and when one may have ended."""
    wait_ns: int
    """Until the next turn, if nothing happens before."""


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

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._looked: dict[Group, int] = {}
        self._turned_ns: int | None = None
        self._chores_ns: int | None = None

    def turn(self, now_ns: int, groups: Collection[Group], touched: Collection[str], *, woken: bool) -> Turn:
        """At CLOCK_MONOTONIC ``now_ns``; ``groups``: all cards.

        ``touched``: cards of processes that have ended. ``woken``: a tenant has come, gone or changed, or its first
        process has ended.
        """
        step_ns = self._period_ns // max(1, len(groups))
        self._looked = {group: self._looked[group] for group in groups if group in self._looked}
        chosen = [group for group in groups if group not in self._looked or not group.isdisjoint(touched)]
        regular = self._turned_ns is None or now_ns - self._turned_ns >= step_ns
        if regular or woken:
            chosen += sorted(groups, key=lambda group: self._looked.get(group, -1))[:1]
            self._turned_ns = now_ns
        self._looked |= dict.fromkeys(chosen, now_ns)
        chores = woken or self._chores_ns is None or now_ns - self._chores_ns >= self._period_ns
        if chores:
            self._chores_ns = now_ns
        assert self._turned_ns is not None
        return Turn(frozenset[str]().union(*chosen), chores, max(0, self._turned_ns + step_ns - now_ns))
