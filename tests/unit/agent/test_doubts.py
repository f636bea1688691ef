"""A tenant's account that cannot be true is named, and costs nobody else anything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.reconcile import Reconciler
from cgpu.agent.state import NodeState
from cgpu.errors import RegionError
from cgpu.model.region_files import USAGE
from cgpu.model.units import GIB, MIB
from cgpu.region import layout
from cgpu.region.reader import RegionReader
from cgpu.region.words import Account, Charge
from cgpu.testing.fakes import GPU_UUIDS
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import World, tenant

CARD = GPU_UUIDS[0]
CONTEXT = 100 * MIB  # what the world's agent takes a context for


@pytest.fixture
def reconciler(world: World, state: NodeState) -> Reconciler:
    return world.reconciler(state)


@pytest.fixture
def process(world: World, state: NodeState):
    """Tenant ``a`` with one process, host pid 50, that holds what it has charged: 1 GiB and a context."""
    state.create(tenant("a", 4 * GIB))
    state.create(tenant("neighbour", GIB))
    world.host.spawn(50)
    world.node.listed[CARD] = [GpuProcess(50, GIB + CONTEXT)]
    owner = TenantProcess(state.region("a"), slot=0, pid=50, start_ticks=500)
    owner.charge(GIB + CONTEXT)
    owner.context()
    yield owner
    owner.close()


def scribble(state: NodeState, data: bytes, offset: int = 0) -> None:
    with (state.region("a") / USAGE).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def fault(world: World, state: NodeState, name: str = "a") -> str:
    world.now_ns += 10**8
    return state.survey().damaged.get(name, "")


def test_an_honest_account_is_not_doubted(world: World, state: NodeState, process: TenantProcess):
    world.node.listed[CARD] = [GpuProcess(50, GIB + 2 * CONTEXT)]  # a context larger than the estimate
    assert [fault(world, state) for _ in range(3)] == [""] * 3
    process.charge(MIB, complete=False)  # killed there
    assert [fault(world, state) for _ in range(3)] == [""] * 3


@pytest.mark.parametrize("byte", [0, 0xFF, 0x5A])
def test_a_file_that_is_none_any_more_is_named_at_once(world: World, state: NodeState, byte: int):
    state.create(tenant("a", 4 * GIB))
    scribble(state, bytes([byte]) * 200_000)
    assert "not a region file" in fault(world, state)


def test_what_it_holds_still_counts_as_its_own(world: World, state: NodeState, process: TenantProcess):
    world.host.table[50].variables["CGPU_REGION"] = str(state.region("a"))
    scribble(state, bytes(4096))
    survey = state.survey()
    assert survey.on("a", CARD).overhead_bytes == GIB + CONTEXT
    assert survey.foreign_bytes(CARD) == world.node.reserved_bytes, "the room for others is what it was"


def test_states_that_there_are_not_are_named_at_once_and_nothing_is_reclaimed(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    process.usage.header.slots_seen = 0xFFFFFFFF
    for slot in list(process.usage.slot)[1:]:
        slot.header.state = 0xFFFFFFFF
    assert "1022 slots are in a state" in fault(world, state)
    world.tick(reconciler)
    assert world.arbiter.reclaimed == []


def test_more_than_any_card_has_is_named_at_once(world: World, state: NodeState, process: TenantProcess):
    process.charge(100 * GIB)
    assert "it claims 103524 MiB of a card of 16384 MiB" in fault(world, state)


def test_an_account_that_is_not_the_sum_of_its_charges_is_named(world: World, state: NodeState, process: TenantProcess):
    process.usage.gpu[0].account = Account(GIB // layout.CGPU_UNIT_BYTES, 0, 1).pack()
    assert fault(world, state) == "", "half an operation may look like that"
    assert "its account says 1024 MiB" in fault(world, state)


def test_less_charged_than_held_is_named(world: World, state: NodeState, process: TenantProcess):
    process.usage.slot[0].gpu[0].charge = Charge(0, 1).pack()
    process.usage.gpu[0].account = Account(0, 0, 1).pack()
    assert fault(world, state) == ""
    assert "the card holds 1124 MiB for its processes, which have charged 0 MiB" in fault(world, state)
    process.charge(GIB + CONTEXT)
    assert fault(world, state) == ""


def test_it_is_logged_once_however_it_changes(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        for size in (100, 200, 300):
            process.charge(size * GIB)
            world.tick(reconciler)
        scribble(state, bytes(64))
        world.tick(reconciler)
    (record,) = caplog.records
    assert record.getMessage().startswith("tenant a: region ")


def test_a_reader_tells_of_scribbles(state: NodeState, process: TenantProcess):
    process.usage.slot[3].header.state = 7
    process.usage.header.slots_seen = 10
    reader = RegionReader(state.region("a"))
    usage = reader.usage(1)
    reader.close()
    assert (usage.strange_slots, usage.settled, [slot.index for slot in usage.slots]) == (1, True, [0])


def test_a_tenant_whose_file_cannot_be_repaired_does_not_stop_the_comparison(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, monkeypatch: pytest.MonkeyPatch
):
    world.host.spawn(60)
    neighbour = TenantProcess(state.region("neighbour"), 0, 60, 600)
    neighbour.charge(MIB)
    neighbour.die()
    process.die()
    world.node.listed[CARD] = []
    reclaim = world.arbiter.reclaim

    def refuse(region: Path, slots: Sequence[int], opened: tuple[int, int]) -> None:
        if region == state.region("a"):
            raise RegionError(f"region {region}: arbiter reclaim: Input/output error")
        reclaim(region, slots, opened)

    monkeypatch.setattr(world.arbiter, "reclaim", refuse)
    world.tick(reconciler)
    assert world.arbiter.reclaimed == [(state.region("neighbour"), 0)]
    neighbour.close()
