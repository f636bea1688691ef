"""Tenants keep to their shares while their agent is dead or does nothing, and go back to it when it is there again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lane import Lane, tenant_name
from bench.machine import compile_client
from bench.window import Window
from cgpu.adapters.agent_client import tenant_path
from tests.integration.attempts import Watch, until_right

pytestmark = [pytest.mark.timing, pytest.mark.timeout(240)]

WEIGHTS = (1, 2, 4)
SETTLE_S = 1.5
WITH_AGENT_S, WITHOUT_S = 3.0, 4.0
ERROR, ERROR_WITHOUT = 0.015, 0.05  # of what the tenants have together
BUSY, BUSY_WITHOUT = 0.965, 0.9  # of the card
NO_SYNC = 0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client("load", tmp_path_factory.mktemp("clients"))


@pytest.fixture(params=[100_000, 10_000_000], ids=["0.1ms", "10ms"])
def lane(program: Path, request: pytest.FixtureRequest) -> Iterator[Lane]:
    """Three tenants by weight, at work."""
    with Lane.temporary(program, "t4") as lane:
        loads = lane.tenants(len(WEIGHTS))
        lane.configure({"policy": 2}, [{"weight": weight} for weight in WEIGHTS])
        for load in loads:
            load.run("plain", request.param, NO_SYNC)
        yield lane


def wrong_shares(lane: Lane, watch: Watch, *, agent: bool) -> str:
    """What is wrong with how the card's time is divided, some time from now."""
    time.sleep(SETTLE_S)
    with watch():
        before = lane.look()
        time.sleep(WITH_AGENT_S if agent else WITHOUT_S)
        after = lane.look()
    pids = [load.pid for load in lane.tenants(len(WEIGHTS))]
    window = Window.between(before, after, pids, tenants=False)
    had = [part / sum(window.card) for part in window.card]
    asked = [weight / sum(WEIGHTS) for weight in WEIGHTS]
    error, busy = (ERROR, BUSY) if agent else (ERROR_WITHOUT, BUSY_WITHOUT)
    right = all(abs(h - a) <= error for h, a in zip(had, asked, strict=True)) and window.busy >= busy
    return "" if right else f"busy {window.busy:.1%}, shares {', '.join(f'{part:.1%}' for part in had)}"


def charged_ns(lane: Lane) -> list[int]:
    """What the agent says that each tenant has had."""
    names = map(tenant_name, range(len(WEIGHTS)))
    return [lane.client.get(tenant_path(name))["shares"][0]["busy_ns"] for name in names]


def not_as_before(before: list[int], after: list[int], *, grown: bool) -> str:
    """What is wrong with how two readings of the account follow each other."""
    pairs = zip(before, after, strict=True)
    right = all(a < b if grown else a <= b for a, b in pairs)
    return "" if right else f"the account went from {before} to {after}"


def test_tenants_keep_their_shares_when_the_agent_is_killed_and_when_another_takes_them_over(lane: Lane):
    def attempt(_: int, watch: Watch) -> str:
        before = charged_ns(lane)
        lane.kill_agent()
        without = wrong_shares(lane, watch, agent=False)
        lane.restart_agent()
        taken_over = charged_ns(lane)
        again = wrong_shares(lane, watch, agent=True)
        assert not not_as_before(before, taken_over, grown=False)
        assert not not_as_before(taken_over, charged_ns(lane), grown=True)
        return "; ".join(filter(None, (without, again)))

    until_right(attempt)


def test_tenants_keep_their_shares_while_the_agent_is_stopped_and_when_it_goes_on(lane: Lane):
    def attempt(_: int, watch: Watch) -> str:
        before = charged_ns(lane)
        lane.stop_agent()
        without = wrong_shares(lane, watch, agent=False)
        lane.continue_agent()
        again = wrong_shares(lane, watch, agent=True)
        assert not not_as_before(before, charged_ns(lane), grown=True)
        return "; ".join(filter(None, (without, again)))

    until_right(attempt)
