"""What the last looks at the cards have found, for questions that need not look themselves. Pure.

A look at a card with a hundred processes takes some milliseconds, and keeps everybody else waiting. The agent looks at
each card where something happens twice a second anyway; where so many are, that is good enough for a question.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from cgpu.agent.subjects import Subject
from cgpu.agent.survey import Reading, Survey

_Value = TypeVar("_Value")

FEW: Final = 100
"""A question looks at its cards itself where they have no more tenants and processes than this: 2 ms or so."""

KEPT_NS: Final = 1_000_000_000
"""Otherwise it may be answered from looks of this age."""


class _Look(NamedTuple):
    survey: Survey
    tenants: dict[str, Subject]  # by id
    at_ns: int
    known: int
    """Tenants and processes."""


class Recent:
    """The last look at each card. Any thread may ask while one remembers."""

    def __init__(self) -> None:
        self._looks: dict[str, _Look] = {}  # by GPU UUID; never changed, but replaced

    def remember(self, survey: Survey, subjects: Collection[Subject], at_ns: int) -> None:
        """A look at the cards of ``survey``, begun at ``at_ns``."""
        looks: dict[str, _Look] = {}
        for uuid in (*survey.cards, *survey.failed):
            tenants = {subject.id: subject for subject in subjects if uuid in subject.gpu_uuids}
            processes = sum(len(survey.on(tenant_id, uuid).host_pids) for tenant_id in tenants)
            looks[uuid] = _Look(survey, tenants, at_ns, len(tenants) + processes)
        self._looks = self._looks | looks

    def joined(self, subject: Subject, reading: Reading) -> None:
        """A tenant has begun since the last looks at its cards, which decided on it, with that in its region."""
        begun = {uuid: self._looks[uuid] for uuid in self._looks.keys() & subject.gpu_uuids}
        self._looks = self._looks | {
            uuid: look._replace(
                survey=replace(look.survey, readings={**look.survey.readings, subject.id: reading}),
                tenants={**look.tenants, subject.id: subject},
            )
            for uuid, look in begun.items()
        }

    def to_look_at(self, cards: Collection[str], subjects: Collection[Subject], now_ns: int) -> frozenset[str]:
        """Those of the cards that have to be looked at before ``survey`` can tell of them."""
        looks = self._looks
        known = {uuid: looks[uuid] for uuid in cards if uuid in looks}
        if sum(look.known for look in known.values()) <= FEW:
            return frozenset(cards)
        fresh = {
            uuid
            for uuid, look in known.items()
            if now_ns - look.at_ns < KEPT_NS
            and all(look.tenants.get(subject.id) == subject for subject in subjects if uuid in subject.gpu_uuids)
        }
        return frozenset(cards) - fresh

    def survey(self, cards: Collection[str]) -> Survey:
        """The looks at these cards as one. All of them have been looked at; who has ended since may be in it."""
        looks = self._looks
        readings: dict[str, Reading] = {}
        damaged: dict[str, str] = {}
        for look in sorted((looks[uuid] for uuid in cards), key=lambda look: look.at_ns):
            for tenant_id in look.tenants:  # of two cards: the later look decides
                _set(readings, tenant_id, look.survey.readings.get(tenant_id))
                _set(damaged, tenant_id, look.survey.damaged.get(tenant_id))
        surveys = {uuid: looks[uuid].survey for uuid in cards}
        return Survey(
            readings=readings,
            damaged=damaged,
            cards={uuid: survey.cards[uuid] for uuid, survey in surveys.items() if uuid in survey.cards},
            used_bytes={uuid: survey.used_bytes[uuid] for uuid, survey in surveys.items() if uuid in survey.cards},
            releasable=tuple(dict.fromkeys(key for survey in surveys.values() for key in survey.releasable)),
            failed={uuid: survey.failed[uuid] for uuid, survey in surveys.items() if uuid in survey.failed},
        )


def _set(table: dict[str, _Value], key: str, value: _Value | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
