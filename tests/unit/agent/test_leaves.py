"""The cgroups that the agent has made for its tenants: every one goes, also while a process in it is still ending."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cgpu.agent.documents import NodeDocument, decode, encode
from cgpu.agent.state import NodeState
from tests.unit.agent.conftest import World, tenant

LEAF = "/cgpu-a"


@pytest.fixture
def state(world: World) -> NodeState:
    """A tenant in a leaf, whose last process is ending: it is in no list, and keeps its cgroup."""
    world.host.can_make_leaves = True
    state = world.recovered()
    state.create(tenant("a"), world.caller(50))
    del world.host.table[50]
    world.host.ending.add(LEAF)
    assert world.host.leaves == {LEAF}
    return state


def test_a_leaf_that_is_in_use_is_removed_by_a_later_tick(world: World, state: NodeState):
    reconciler = world.reconciler(state)
    assert world.tick(reconciler).tenants_left == 0
    assert world.host.leaves == {LEAF}
    world.host.ending.clear()
    world.tick(reconciler)
    assert world.host.leaves == set()


def test_or_by_the_next_agent(world: World, state: NodeState):
    state.remove("a")
    state.close()
    assert world.host.leaves == {LEAF}
    world.host.ending.clear()
    world.recovered()
    assert world.host.leaves == set()


def test_an_agent_that_ends_waits_for_it(world: World, state: NodeState):
    state.remove("a")
    state.remove_leaves(1.0)
    assert world.host.leaves == set()


def test_a_leaf_that_never_goes_is_named_once_and_left(
    world: World, state: NodeState, caplog: pytest.LogCaptureFixture
):
    reconciler = world.reconciler(state)
    for _ in range(200):
        world.tick(reconciler)
    assert [record.getMessage() for record in caplog.records] == [f"cgroup {LEAF} stays: it cannot be removed"]
    world.host.ending.clear()
    world.tick(reconciler)
    assert world.host.leaves == {LEAF}


def test_the_leaf_of_a_tenant_that_is_there_again_is_its_own(world: World, state: NodeState):
    state.remove("a")
    state.create(tenant("a"), world.caller(51))
    world.host.ending.clear()
    del world.host.table[51]  # nobody is in it for now
    state.remove_leaves()
    assert world.host.leaves == {LEAF}


def test_a_cgroup_that_a_tenant_came_with_is_left_alone(world: World, state: NodeState):
    world.host.leaves.add("/box")
    state.create(replace(tenant("b"), cgroup="/box"))
    state.remove("b")
    assert "/box" in world.host.leaves


def test_the_checkpoint_keeps_them():
    document = NodeDocument({}, {}, {}, leaves=frozenset({LEAF}))
    assert decode(encode(document)) == document
