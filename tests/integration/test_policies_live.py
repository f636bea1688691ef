"""Policies and shares change while two tenants work, by the agent's API: each gets what it is then promised."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from bench.lane import Lane
from bench.machine import compile_client
from bench.window import Window
from cgpu.adapters.agent_client import gpu_path
from cgpu.model.tenant import MAX_TENANTS_PER_GPU
from tests.integration.attempts import Watch, until_right

pytestmark = [pytest.mark.timing, pytest.mark.timeout(120)]

KERNEL_NS = 1_000_000
NO_SYNC = 0
SETTLE_S, WINDOW_S = 0.7, 2.0
ERROR = 0.025  # of the card's time


class Step(NamedTuple):
    """What is changed, and what it leads to."""

    policy: Mapping[str, Any]
    shares: Sequence[Mapping[str, int]]
    in_force: int
    parts: tuple[float, float]  # of the card's time


NORMAL: Mapping[str, int] = {}
HIGH = {"priority": 1}
STEPS = {
    "halves": Step({"policy": 1}, [NORMAL, NORMAL], 1, (0.5, 0.5)),
    "no-weight-under-the-default": Step({"policy": None}, [NORMAL, NORMAL], 1, (0.5, 0.5)),
    "a-weight-under-the-default": Step({"policy": None}, [{"weight": 3}, NORMAL], 2, (0.75, 0.25)),
    "fixed": Step({"policy": 3}, [{"compute_percent": 30}, {"compute_percent": 50}], 3, (0.3, 0.5)),
    "limit": Step({"policy": 4}, [{"compute_limit_percent": 20}, NORMAL], 4, (0.2, 0.8)),
    "priority-60": Step({"policy": 1, "prio_ratio": 60}, [HIGH, NORMAL], 1, (0.6, 0.4)),
    "priority-90": Step({"policy": 1, "prio_ratio": 90}, [HIGH, NORMAL], 1, (0.9, 0.1)),
    "slices": Step({"policy": 0, "max_inst": 4}, [NORMAL, NORMAL], 0, (0.25, 0.25)),
    "native": Step({"policy": 5}, [NORMAL, NORMAL], 5, (0.5, 0.5)),
}


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """Two tenants at work, from before the first change until after the last."""
    program = compile_client("load", tmp_path_factory.mktemp("clients"))
    with Lane.temporary(program, "t4") as lane:
        loads = lane.tenants(2)
        for load in loads:
            load.run("plain", KERNEL_NS, NO_SYNC)
        yield lane


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_tenants_get_what_the_policy_in_force_promises_from_the_change_on(lane: Lane, step: Step):
    lane.configure({"max_inst": MAX_TENANTS_PER_GPU, **step.policy}, step.shares)
    assert lane.client.get(gpu_path("0"))["policy"] == step.in_force

    def attempt(_: int, watch: Watch) -> str:
        time.sleep(SETTLE_S)
        with watch():
            before = lane.look()
            time.sleep(WINDOW_S)
            after = lane.look()
        had = Window.between(before, after, [load.pid for load in lane.tenants(2)], tenants=False).card
        right = all(abs(h - asked) <= ERROR for h, asked in zip(had, step.parts, strict=True))
        return "" if right else f"{had[0]:.1%} and {had[1]:.1%} of the time"

    until_right(attempt)
