"""An agent that is killed at any step of any operation comes back with nothing lost.

Each case forks: the child does the operation and is ended without any cleanup at its n-th step, as
kill -9 would; the parent recovers and looks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cgpu.agent.state import NodeState
from cgpu.agent.wishes import ShareChange
from cgpu.model.account import COUNTERS, AccountQuery, Counters
from cgpu.model.tenant import GpuPolicy, Policy
from cgpu.model.units import GIB
from cgpu.region.reader import RegionReader
from cgpu.testing.fakes import GPU_UUIDS, gpu
from tests.unit.agent.conftest import World, tenant, write_counters

_KILLED = 9
pytestmark = pytest.mark.timeout(60)  # some fifty agents are started, killed and recovered, each with its fsyncs

COUNTED = Counters(5, 4, 3, 2, 1)

Operation = Callable[[NodeState], object]
OPERATIONS: dict[str, Operation] = {
    "create": lambda state: state.create(tenant("new", gpus=(0, 1), weight=2)),
    "remove": lambda state: state.remove("old"),
    "set": lambda state: state.set_share("old", ShareChange(memory_bytes=3 * GIB, weight=5)),
    "policy": lambda state: state.set_policy(gpu(), GpuPolicy(Policy.NATIVE, overcommit=True)),
}


def view(world: World, state: NodeState) -> dict[str, object]:
    """All that a user, a tenant or the arbiter can see."""
    regions = {}
    for record in state.records():
        reader = RegionReader(state.region(record.tenant.id))
        rows = reader.grants().gpus
        regions[record.tenant.id] = [(row.gpu_uuid, row.quota_bytes, row.weight, row.policy) for row in rows]
        reader.close()
    return {
        "records": state.records(),
        "regions": regions,
        "folders": sorted(path.name for path in (world.folder / "tenants").iterdir()),
        "arbiter": dict(world.arbiter.tenants),
        "policies": {uuid: world.arbiter.policies.get(uuid) for uuid in GPU_UUIDS},
    }


def prepared(folder: Path) -> World:
    folder.mkdir()
    world = World(folder)
    state = world.recovered()
    state.create(tenant("old"))
    state.create(tenant("bystander", GIB))
    state.close()
    return world


def killed_at(world: World, operation: Operation, number: int, *, recover_armed: bool = False) -> bool:
    """Run the operation in a child that ends at its step ``number``; False when it has fewer steps."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = 0

            def step(_: str) -> None:
                nonlocal count
                if count == number:
                    os._exit(_KILLED)
                count += 1

            state = world.agent(lambda name: step(name) if armed else None)
            armed = recover_armed
            state.recover()
            armed = True
            operation(state)
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, _KILLED)
    return status == _KILLED


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_step(tmp_path: Path, name: str):
    operation = OPERATIONS[name]
    untouched, finished = prepared(tmp_path / "before"), prepared(tmp_path / "after")
    before = view(untouched, untouched.recovered())
    state = finished.recovered()
    operation(state)
    after = view(finished, state)
    assert before["regions"] != after["regions"]
    number = 0
    outcomes = []
    while killed_at(world := prepared(tmp_path / f"killed-{number}"), operation, number):
        state = world.recovered()
        seen = relocated(view(world, state), world, finished)
        # As if nothing had happened, or as if all had: nothing between, and nothing of others changed.
        assert seen in (relocated(before, untouched, finished), after), f"step {number}"
        outcomes.append(seen == after)
        operation(state)
        assert relocated(view(world, state), world, finished) == after, f"repeated after step {number}"
        number += 1
    assert number > 5
    # Once it has happened, it stays: the commit is one point.
    assert outcomes == sorted(outcomes)
    assert {True, False} == set(outcomes)


def relocated(seen: dict[str, object], world: World, to: World) -> dict[str, object]:
    """The same view with the regions' folders of another world."""
    arbiter = seen["arbiter"]
    assert isinstance(arbiter, dict)
    moved = {(uuid, to.folder / "tenants" / region.name): share for (uuid, region), share in arbiter.items()}
    return {**seen, "arbiter": moved}


def test_a_recovery_that_is_killed_is_recovered_from(tmp_path: Path):
    world = prepared(tmp_path / "w")
    # Killed in the middle of a creation: there is something to recover.
    assert killed_at(world, OPERATIONS["create"], 6)
    number = 0
    while recovery_killed_at(world, number):
        number += 1
    assert number > 3
    state = world.recovered()
    assert {record.tenant.id for record in state.records()} == {"old", "bystander", "new"}
    assert len(world.arbiter.tenants) == 4


def recovery_killed_at(world: World, number: int) -> bool:
    child = os.fork()
    if child == 0:
        count = iter(range(1000))
        world.agent(lambda _: os._exit(_KILLED) if next(count) == number else None).recover()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == _KILLED


@pytest.mark.parametrize("name", ["recover", "account", "remove", "remove and create"])
def test_no_kill_loses_or_doubles_what_the_arbiter_has_counted(tmp_path: Path, name: str):
    def operation(state: NodeState) -> None:
        write_counters(state.region("old"), COUNTED)  # after the last look at it
        if name in ("recover", "account"):
            state.account()
        else:
            state.remove("old")
        if name == "remove and create":
            state.create(tenant("old"))

    number = 0
    while True:
        world = prepared(tmp_path / f"killed-{number}")
        write_counters(world.folder / "tenants" / "bystander", COUNTED)
        if name == "recover":
            write_counters(world.folder / "tenants" / "old", COUNTED)
        killed = killed_at(world, operation, number, recover_armed=name == "recover")
        state = world.recovered()
        told = {row["tenant_id"]: [row[counter] for counter in COUNTERS] for row in state.ledger.rows(AccountQuery())}
        expected = list(COUNTED.values())
        assert told == {"old": expected, "bystander": expected}, f"step {number}"
        # Another life of the same id begins at zero, and counts from there.
        state.remove("old")
        state.create(tenant("old"))
        write_counters(state.region("old"), COUNTED + COUNTED)
        state.account()
        (row,) = state.ledger.rows(AccountQuery(tenant="old"))
        assert row["got_ns"] == 3 * COUNTED.got_ns, f"step {number}"
        state.close()
        if not killed:
            break
        number += 1
    assert number >= 4
