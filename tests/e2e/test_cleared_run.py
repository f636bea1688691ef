"""Somebody clears the agent's folder below /run while the agent and its containers run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from cgpu.model.units import GIB
from tests.e2e.conftest import SETTLE_S
from tests.e2e.engines import Engine
from tests.e2e.host import eventually
from tests.e2e.node import Node, told
from tests.e2e.wanted import Wanted

HOLDS = Wanted(("sh", "-c", "sleep 1000 | /client/quota hold; sleep 1000"), {"CGPU_MEMORY": "9GiB"})


@pytest.fixture
def cleared(node: Node, engine: Engine) -> Iterator[Engine]:
    """An engine with a container that holds memory, and the folder just cleared."""
    result = engine.start("cleared", HOLDS)
    assert result.returncode == 0, result.stderr
    try:
        eventually(lambda: node.used_bytes() > 0, "the container has memory of the card")
        shutil.rmtree(node.settings.runtime_dir)
        eventually(node.answers, "the agent answers again", SETTLE_S)
        yield engine
    finally:
        engine.remove("cleared")


def test_the_agent_knows_its_tenants_and_admits_others(node: Node, cleared: Engine):
    share = node.tenants()[0]["shares"][0]
    assert (share["memory_bytes"], [row["bypasses_shim"] for row in share["processes"]]) == (9 * GIB, [False])
    beside = cleared.run("beside", Wanted(("/client/quota", "fill"), {"CGPU_MEMORY": "1GiB"}))
    assert told(beside)["total"] == GIB
    too_much = cleared.run("too-much", HOLDS)
    cleared.remove("too-much")
    assert too_much.returncode != 0
    assert "CGPU-CAPACITY" in too_much.stderr


def test_its_end_leaves_nothing(node: Node, cleared: Engine):
    node.host.kill(cleared.pid("cleared"))
    eventually(node.nothing_left, "nothing is left", SETTLE_S)


def test_an_agent_that_dies_afterwards_is_followed_by_one_that_knows_the_tenants(node: Node, cleared: Engine):
    node.kill_agent()
    node.start_agent()
    assert len(node.tenants()) == 1


def test_what_a_process_of_it_was_charged_comes_back(node: Node, cleared: Engine):
    """The files of its region have no names any more."""
    holder = node.machine.status().cards[0].processes[0].pid
    os.kill(holder, signal.SIGKILL)
    eventually(lambda: node.tenants()[0]["shares"][0]["used_bytes"] == 0, "it is charged no more")
