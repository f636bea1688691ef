"""Questions: looked at afresh where few are there, otherwise answered from looks of the last second."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.recent import KEPT_NS
from cgpu.agent.state import NodeState
from cgpu.agent.survey import Survey
from cgpu.agent.views import Views
from cgpu.agent.wishes import ShareChange
from cgpu.errors import DriverError
from cgpu.model.region_files import USAGE
from cgpu.model.tenant import Gpu
from cgpu.model.units import GIB
from cgpu.testing.fakes import GPU_UUIDS
from tests.unit.agent.conftest import World, tenant

BOTH = frozenset(GPU_UUIDS[:2])


@dataclass
class Looks:
    """Which cards were looked at, look by look."""

    cards: list[frozenset[str]] = field(default_factory=list)


@pytest.fixture
def looks(state: NodeState, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """From now on. However few there are on a card, they are many."""
    found, survey = Looks(), state.survey

    def counted(cards: Collection[str] | None = None) -> Survey:
        assert cards is not None
        found.cards.append(frozenset(cards))
        return survey(cards)

    monkeypatch.setattr(state, "survey", counted)
    monkeypatch.setattr("cgpu.agent.recent.FEW", -1)
    return found


def test_cards_with_few_tenants_and_processes_are_looked_at_for_each_question(
    world: World, state: NodeState, looks: Looks, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cgpu.agent.recent.FEW", 2)
    state.create(tenant())
    world.host.spawn(60, region=state.region("a"))
    listed = world.node.listed.setdefault(GPU_UUIDS[0], [])
    listed.append(GpuProcess(60, GIB))
    looks.cards.clear()
    for _ in range(3):
        assert state.recent_survey().used_bytes[GPU_UUIDS[0]] > GIB
    assert looks.cards == [BOTH] * 3
    world.host.spawn(61, region=state.region("a"))
    listed.append(GpuProcess(61, GIB))
    state.recent_survey()
    looks.cards.clear()
    state.recent_survey()
    assert looks.cards == []


def test_a_look_at_many_serves_the_questions_of_a_second(world: World, state: NodeState, looks: Looks):
    state.recent_survey()
    world.now_ns += KEPT_NS - 1
    state.recent_survey()
    state.recent_survey(GPU_UUIDS[:1])
    assert looks.cards == [BOTH]
    world.now_ns += 1
    state.recent_survey(GPU_UUIDS[:1])
    assert looks.cards == [BOTH, {GPU_UUIDS[0]}]


def test_a_look_of_the_comparison_serves_too(world: World, state: NodeState, looks: Looks):
    world.tick(world.reconciler(state))
    looks.cards.clear()
    state.recent_survey()
    assert looks.cards == []


def test_who_has_begun_since_the_look_needs_no_other_one(world: World, state: NodeState, looks: Looks):
    views = Views(state, world.node, private=False, runtime_dir="")
    state.create(tenant("a"))
    state.recent_survey()
    looks.cards.clear()
    state.create(tenant("b", weight=3))
    assert looks.cards == [{GPU_UUIDS[0]}]  # to decide
    looks.cards.clear()
    assert {row["id"]: row["shares"][0]["weight"] for row in views.tenants()} == {"a": 1, "b": 3}
    assert set(state.recent_survey().readings) == {"a", "b"}
    state.remove("a")
    assert [row["id"] for row in views.tenants()] == ["b"]
    assert looks.cards == []


def test_a_share_that_was_changed_is_told_at_once(world: World, state: NodeState, looks: Looks):
    views = Views(state, world.node, private=False, runtime_dir="")
    state.create(tenant("a"))
    state.create(tenant("b"))
    before = views.tenant(state.record("a"))["shares"][0]
    looks.cards.clear()
    state.set_share("a", ShareChange(weight=3))
    after = views.tenant(state.record("a"))["shares"][0]
    assert looks.cards == []
    assert (before["weight"], after["weight"]) == (1, 3)
    assert state.grants_now("a").gpus[0].weight == 3  # type: ignore[union-attr]
    assert state.grants_now("nobody") is None


def test_of_several_looks_the_latest_counts(
    world: World, state: NodeState, looks: Looks, monkeypatch: pytest.MonkeyPatch
):
    state.create(tenant("a", gpus=(0, 1)))
    usage = state.region("a") / USAGE
    whole = usage.read_bytes()
    usage.write_bytes(b"x" + whole[1:])
    assert "a" in state.survey(BOTH).damaged
    assert "a" in state.recent_survey().damaged
    usage.write_bytes(whole)
    world.now_ns += KEPT_NS // 2
    state.survey(GPU_UUIDS[:1])
    recent = state.recent_survey()
    assert "a" in recent.readings
    assert "a" not in recent.damaged

    def lost(_: Gpu) -> tuple[GpuProcess, ...]:
        raise DriverError("lost")

    world.now_ns += 1
    with monkeypatch.context() as broken:
        broken.setattr(world.node, "processes", lost)
        state.survey(GPU_UUIDS[1:2])
    recent = state.recent_survey()
    assert set(recent.failed) == {GPU_UUIDS[1]}
    assert set(recent.cards) == set(recent.used_bytes) == {GPU_UUIDS[0]}
    assert recent.used_bytes[GPU_UUIDS[0]] < GIB
