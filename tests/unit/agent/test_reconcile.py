"""The comparison with NVML: dead charges go, overhead and contexts are learned, ended tenants are removed."""

from __future__ import annotations

import threading
from collections.abc import Collection

import pytest

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.reconcile import Reconciler
from cgpu.agent.state import NodeState
from cgpu.agent.stillness import LOOK_NS
from cgpu.agent.survey import Survey
from cgpu.agent.wishes import ShareChange
from cgpu.errors import DriverError, RegionError
from cgpu.model.account import Counters
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import GpuPolicy, Policy, ProcessUsage
from cgpu.model.units import GIB, MIB
from cgpu.region.layout import Grants
from cgpu.region.reader import GrantedGpu, RegionReader
from cgpu.testing.fakes import GPU_UUIDS, gpu
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import World, tenant, write_counters
from tests.unit.agent.test_fair_lock import wait_until_somebody_waits

CARD = GPU_UUIDS[0]
SECOND = 10**9


@pytest.fixture
def reconciler(world: World, state: NodeState) -> Reconciler:
    return world.reconciler(state)


@pytest.fixture
def process(world: World, state: NodeState):
    """Tenant ``a`` with one process, host pid 50, that has charged 1 GiB and a context."""
    state.create(tenant("a", 4 * GIB))
    world.host.spawn(50)
    owner = TenantProcess(state.region("a"), slot=0, pid=50, start_ticks=500)
    owner.charge(GIB)
    owner.charge(100 * MIB, explicit=False)
    owner.context()
    yield owner
    owner.close()


def row(state: NodeState, name: str = "a") -> GrantedGpu:
    reader = RegionReader(state.region(name))
    try:
        return reader.grants().gpus[0]
    finally:
        reader.close()


def surplus_of(state: NodeState) -> tuple[int, int]:
    surplus = Grants.from_buffer_copy((state.region("a") / GRANTS).read_bytes()).surplus[0][0]
    return surplus.surplus_bytes, surplus.charge_seq


def on_card(world: World, memory_bytes: int | None, host_pid: int = 50) -> None:
    world.node.listed[CARD] = [GpuProcess(host_pid, memory_bytes)]


def test_what_the_card_holds_beyond_the_charge_is_overhead(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, GIB + 250 * MIB)
    world.tick(reconciler)
    assert row(state).overhead_bytes == 150 * MIB
    process.charge(150 * MIB, explicit=False)
    world.tick(reconciler)
    assert row(state).overhead_bytes == 0


def test_a_charge_above_the_truth_may_be_returned_by_its_process(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, GIB + 60 * MIB)
    world.tick(reconciler)
    assert surplus_of(state) == (0, 0)
    world.tick(reconciler)
    assert surplus_of(state) == (40 * MIB, 2)
    assert row(state).overhead_bytes == 0


def test_what_is_being_allocated_is_no_surplus(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, GIB)
    world.tick(reconciler)
    process.charge(64 * MIB, explicit=False)
    world.tick(reconciler, 0.4)
    on_card(world, GIB + 10 * MIB)
    world.tick(reconciler, 0.4)
    assert surplus_of(state) == (0, 0)
    process.context(0)
    world.tick(reconciler)
    assert surplus_of(state) == (0, 0)


def test_a_driver_that_does_not_say_leaves_the_charge_as_truth(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, None)
    world.tick(reconciler)
    assert row(state).overhead_bytes == 0
    assert state.context_bytes(gpu()) == 100 * MIB


def test_a_charge_that_moves_while_nvml_is_asked_changes_nothing(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, monkeypatch: pytest.MonkeyPatch
):
    on_card(world, GIB + 250 * MIB)
    world.tick(reconciler)
    listed = world.node.processes

    def charge_meanwhile(card: object) -> tuple[GpuProcess, ...]:
        process.charge(512 * MIB)
        return listed(card)  # type: ignore[arg-type]

    monkeypatch.setattr(world.node, "processes", charge_meanwhile)
    on_card(world, 3 * GIB)
    world.tick(reconciler)
    assert row(state).overhead_bytes == 150 * MIB


def test_a_dead_process_is_reclaimed_when_the_card_has_released_its_memory_and_not_before(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, GIB)
    world.tick(reconciler)
    process.die()
    del world.host.table[50]
    world.tick(reconciler)
    assert world.arbiter.reclaimed == []
    world.node.listed[CARD] = []
    world.tick(reconciler)
    assert world.arbiter.reclaimed == [(state.region("a"), 0)]


def test_a_dead_process_that_was_never_seen_waits_for_every_nameless_one_on_the_card(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    process.die()
    del world.host.table[50]
    on_card(world, GIB)
    world.tick(reconciler)
    assert world.arbiter.reclaimed == []
    world.node.listed[CARD] = []
    world.tick(reconciler)
    assert world.arbiter.reclaimed == [(state.region("a"), 0)]


def test_a_process_that_this_namespace_does_not_show_is_not_waited_for_for_ever(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    process.die()
    del world.host.table[50]
    on_card(world, GIB, host_pid=999)
    world.tick(reconciler)
    assert world.arbiter.reclaimed == []
    world.tick(reconciler, 6)
    assert world.arbiter.reclaimed == [(state.region("a"), 0)]


def test_a_reused_pid_fools_nobody(world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess):
    on_card(world, GIB)
    world.tick(reconciler)
    process.die()
    world.host.spawn(50).identity = world.host.table[50].identity.__class__(50, 999999, 4026531836)
    world.tick(reconciler)
    assert world.arbiter.reclaimed == [(state.region("a"), 0)]
    assert row(state).overhead_bytes == 0


def test_processes_in_containers_are_known_by_their_own_pid_and_namespace(
    world: World, state: NodeState, reconciler: Reconciler
):
    state.create(tenant("a", 4 * GIB))
    world.host.spawn(70, pid=1)
    owner = TenantProcess(state.region("a"), slot=2, pid=1, start_ticks=700)
    owner.charge(GIB)
    on_card(world, GIB, host_pid=70)
    attributed = state.survey().on("a", CARD)
    assert attributed.processes == [ProcessUsage(1, 70, "python", GIB)]
    owner.close()


@pytest.mark.parametrize("known_by", ["cgroup", "region"])
def test_a_process_without_a_slot_is_flagged_and_counted(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, known_by: str
):
    if known_by == "region":
        world.host.spawn(60, region=state.region("a"))
    else:
        state.remove("a")
        state.create(tenant("a", 4 * GIB).__class__("a", "a", tenant().shares, cgroup="/box"))
        world.host.spawn(60, cgroup="/box/inner")
    world.node.listed[CARD] = [GpuProcess(60, 700 * MIB)]
    world.tick(reconciler)
    assert state.survey().on("a", CARD).processes == [ProcessUsage(60, 60, "python", 700 * MIB, bypasses_shim=True)]
    assert row(state).overhead_bytes == 700 * MIB


def test_a_stranger_is_foreign(world: World, state: NodeState):
    world.host.spawn(60)
    on_card(world, GIB, host_pid=60)
    assert state.survey().foreign_bytes(CARD) == GIB + world.node.reserved_bytes


def test_where_no_context_could_be_measured_a_tenants_own_show_its_size(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    assert row(state).context_bytes == state.context_bytes(gpu()) == 100 * MIB
    for beyond, shown in ((320 * MIB, 320 * MIB), (900 * MIB, 320 * MIB), (0, 320 * MIB), (310 * MIB, 310 * MIB)):
        on_card(world, GIB + beyond)  # the 900 are its arrays' too
        world.tick(reconciler)
        assert row(state).context_bytes == shown


def test_no_tenant_says_what_its_neighbours_contexts_take(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    state.create(tenant("b"))
    on_card(world, 3 * GIB)  # as if all of it were a context: the region can say so
    world.tick(reconciler)
    assert (row(state).context_bytes, row(state, "b").context_bytes) == (2 * GIB, 100 * MIB)
    assert state.context_bytes(gpu()) == 100 * MIB


def test_a_measured_context_is_believed_whatever_a_tenant_shows(world: World):
    world.context_bytes = 90 * MIB
    state = world.recovered()
    state.create(tenant("a", 4 * GIB))
    world.host.spawn(50)
    process = TenantProcess(state.region("a"), slot=0, pid=50, start_ticks=500)
    process.charge(GIB)
    process.context()
    on_card(world, GIB + 320 * MIB)
    world.tick(world.reconciler(state))
    process.close()
    assert row(state).context_bytes == 90 * MIB


def test_utilisation_is_charged_time_over_time(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    world.tick(reconciler)
    with (state.region("a") / GRANTS).open("r+b") as file:
        file.seek(Grants.gpu.offset + 112)
        file.write((SECOND // 4).to_bytes(8, "little"))
    world.tick(reconciler)
    assert row(state).utilisation_percent == 50
    assert reconciler.utilisation_percent("a", CARD) == 50


def test_under_policy_5_nvml_says_how_busy_a_tenant_is(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    state.set_policy(gpu(), GpuPolicy(Policy.NATIVE))
    on_card(world, GIB)
    world.node.utilisation = {50: 37}
    world.tick(reconciler)
    assert row(state).utilisation_percent == 37


def test_a_tenant_ends_with_the_last_process_of_its_tree(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant("a"), world.caller(50))
    world.host.spawn(51, region=state.region("a"))
    assert world.tick(reconciler).host_pids == {50}
    del world.host.table[50]
    assert world.tick(reconciler).tenants_left == 1
    del world.host.table[51]
    assert world.tick(reconciler).tenants_left == 0
    assert not state.region("a").exists()


def test_a_tenant_in_a_leaf_ends_when_the_leaf_is_empty(world: World, state: NodeState, reconciler: Reconciler):
    world.host.can_make_leaves = True
    state.create(tenant("a"), world.caller(50))
    del world.host.table[50]
    world.host.spawn(51, cgroup="/cgpu-a")
    assert world.tick(reconciler).tenants_left == 1
    del world.host.table[51]
    assert world.tick(reconciler).tenants_left == 0


def test_a_tenant_with_a_live_slot_does_not_end(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant("a"), world.caller(50))
    owner = TenantProcess(state.region("a"), 0, 51, 510)
    del world.host.table[50]
    assert world.tick(reconciler).tenants_left == 1
    owner.die()
    assert world.tick(reconciler).tenants_left == 0
    owner.close()


def test_a_tenant_made_by_api_stays(world: World, state: NodeState, reconciler: Reconciler):
    state.create(tenant("a"))
    assert world.tick(reconciler).tenants_left == 1


def test_a_truncated_region_harms_its_own_tenant_only(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    state.create(tenant("b", GIB))
    (state.region("b") / "usage").write_bytes(b"")
    on_card(world, GIB + 250 * MIB)
    world.tick(reconciler)
    assert row(state).overhead_bytes == 150 * MIB
    assert "truncated" in state.survey().damaged["b"]


def test_damaged_grants_leave_what_the_card_holds_with_their_tenant(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    world.host.table[50].variables["CGPU_REGION"] = str(state.region("a"))
    on_card(world, GIB)
    (state.region("a") / GRANTS).write_bytes(b"")
    world.tick(reconciler)
    survey = state.survey()
    assert "truncated" in survey.damaged["a"]
    assert survey.on("a", CARD).truth_bytes == GIB
    assert survey.foreign_bytes(CARD) == world.node.reserved_bytes


def test_grants_that_are_cut_short_end_no_agent_and_keep_no_neighbour(
    world: World, state: NodeState, reconciler: Reconciler
):
    state.create(tenant("b", GIB))
    (state.region("b") / GRANTS).write_bytes(b"")
    world.tick(reconciler)
    state.set_policy(gpu(), GpuPolicy(Policy.NATIVE))
    state.create(tenant("c", GIB))
    world.node.utilisation = {50: 37}
    world.tick(reconciler)
    assert row(state, "c").policy == int(Policy.NATIVE)
    with pytest.raises(RegionError, match="truncated"):
        state.set_share("b", ShareChange(memory_bytes=2 * GIB))
    assert state.remove("b")


def test_nothing_is_reclaimed_while_the_card_does_not_answer(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, monkeypatch: pytest.MonkeyPatch
):
    def lost(_: object) -> int:
        raise DriverError("GPU is lost")

    process.die()
    with monkeypatch.context() as broken:
        broken.setattr(world.node, "used_bytes", lost)
        assert world.tick(reconciler).tenants_left == 1
        assert world.arbiter.reclaimed == []
    world.tick(reconciler)
    assert world.arbiter.reclaimed == [(state.region("a"), 0)]


def test_where_nothing_changes_nothing_is_looked_at(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess, monkeypatch: pytest.MonkeyPatch
):
    looks = 0
    survey = state.survey

    def counted(cards: Collection[str] | None = None) -> Survey:
        nonlocal looks
        looks += cards is not None and CARD in cards
        return survey(cards)

    monkeypatch.setattr(state, "survey", counted)
    on_card(world, GIB + 250 * MIB)
    for _ in range(10):
        world.tick(reconciler)
    assert looks == 2
    write_counters(state.region("a"), Counters(got_ns=SECOND // 4))
    assert world.tick(reconciler).rests
    assert (looks, reconciler.utilisation_percent("a", CARD)) == (2, 50)
    on_card(world, GIB + 260 * MIB)
    assert world.tick(reconciler).stirred == (frozenset({CARD}),)
    assert (looks, row(state).overhead_bytes) == (3, 160 * MIB)
    world.tick(reconciler, LOOK_NS / SECOND)
    assert looks == 4


def test_it_rests_only_where_nothing_is_left_to_do(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    on_card(world, GIB + 250 * MIB)
    world.tick(reconciler)
    assert reconciler.rests_until_ns() is None  # it has to last
    for _ in range(3):
        world.tick(reconciler)
    until_ns = reconciler.rests_until_ns()
    assert until_ns is not None
    assert world.now_ns < until_ns <= world.now_ns + LOOK_NS
    write_counters(state.region("a"), Counters(got_ns=SECOND // 4))
    world.tick(reconciler)
    assert reconciler.rests_until_ns() is None  # its share of the time has to become 0 again
    world.tick(reconciler)
    assert reconciler.rests_until_ns() == until_ns
    state.set_policy(state.gpu("0"), GpuPolicy(policy=Policy.NATIVE))
    for _ in range(3):
        world.tick(reconciler)
    assert reconciler.rests_until_ns() is None  # the driver is asked who works
    state.set_policy(state.gpu("0"), GpuPolicy())
    for _ in range(3):
        world.tick(reconciler)
    assert reconciler.rests_until_ns() is not None
    on_card(world, GIB + 260 * MIB)
    assert reconciler.rests_until_ns() is None


def test_between_two_cards_who_waits_for_the_state_gets_it(
    world: World, state: NodeState, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
):
    looks, looks_then, survey = 0, list[int](), state.survey

    def ask() -> None:
        with state.lock:
            looks_then.append(looks)

    thread = threading.Thread(target=ask)

    def slow(cards: Collection[str] | None = None) -> Survey:
        nonlocal looks
        looks += 1
        if looks == 1:
            thread.start()
            wait_until_somebody_waits(state.lock)
        return survey(cards)

    monkeypatch.setattr(state, "survey", slow)
    world.tick(reconciler)
    thread.join()
    assert (looks, looks_then) == (2, [1])


def test_a_stranger_that_becomes_a_tenants_is_found_in_the_end(
    world: World, state: NodeState, reconciler: Reconciler, process: TenantProcess
):
    world.host.spawn(60)
    world.node.listed[CARD] = [GpuProcess(50, GIB + 100 * MIB), GpuProcess(60, GIB)]
    for _ in range(3):
        world.tick(reconciler)
    assert row(state).overhead_bytes == 0
    world.host.spawn(60, region=state.region("a"))
    world.tick(reconciler, LOOK_NS / SECOND)
    assert row(state).overhead_bytes == GIB
