"""The agent's state: what it grants, refuses, and writes down."""

from __future__ import annotations

import pytest

from cgpu.agent.state import NodeState
from cgpu.agent.wishes import ShareChange
from cgpu.errors import (
    AgentError,
    AmountError,
    CapacityError,
    NoSuchGpuError,
    NoSuchTenantError,
    RefusedError,
    TenantExistsError,
    UsageError,
)
from cgpu.model.tenant import GpuPolicy, Policy, Share, Tenant
from cgpu.model.units import GIB, MIB
from cgpu.region.layout import CGPU_MAX_GPUS
from cgpu.region.reader import RegionReader
from cgpu.testing.fakes import GPU_UUIDS, FakeNode, gpu
from tests.unit.agent.conftest import World, tenant


def granted(state: NodeState, tenant_id: str):
    reader = RegionReader(state.region(tenant_id))
    try:
        return reader.grants().gpus
    finally:
        reader.close()


def test_who_has_ended_makes_room_at_once(world: World, state: NodeState):
    caller = world.caller(50)
    state.create(tenant("a", 10 * GIB), caller)
    with pytest.raises(CapacityError):
        state.create(tenant("b", 10 * GIB))
    del world.host.table[50]
    state.create(tenant("b", 10 * GIB))
    assert [record.tenant.id for record in state.records()] == ["b"]


def test_a_tenant_gets_a_region_and_takes_part(world: World, state: NodeState):
    state.create(tenant("a", gpus=(0, 1)))
    assert [row.quota_bytes for row in granted(state, "a")] == [2 * GIB, 2 * GIB]
    assert set(world.arbiter.tenants) == {(uuid, state.region("a")) for uuid in GPU_UUIDS}


def test_creating_again_is_no_error_but_another_share_is(state: NodeState):
    first = state.create(tenant("a"))
    assert state.create(tenant("a")) == first
    with pytest.raises(TenantExistsError):
        state.create(tenant("a", 3 * GIB))
    with pytest.raises(TenantExistsError, match="named"):
        state.create(Tenant("b", "a", tenant().shares))


def test_removing_again_is_no_error(world: World, state: NodeState):
    state.create(tenant("a"))
    assert state.remove("a")
    assert not state.remove("a")
    assert not state.region("a").exists()
    assert world.arbiter.tenants == {}


def test_quotas_add_up_to_at_most_what_the_card_has(state: NodeState):
    state.create(tenant("a", 10 * GIB))
    with pytest.raises(CapacityError, match="5844MiB of memory left, asked for 6GiB"):
        state.create(tenant("b", 6 * GIB))
    assert not state.region("b").exists()
    state.create(tenant("c", 5844 * MIB))


def test_more_than_the_card_is_refused_even_when_overcommitted(state: NodeState):
    state.set_policy(gpu(), GpuPolicy(overcommit=True))
    state.create(tenant("a", 10 * GIB))
    state.create(tenant("b", 10 * GIB))
    with pytest.raises(CapacityError, match="in all"):
        state.create(tenant("c", 17 * GIB))


def test_the_21st_tenant_is_refused_with_cgpus_own_words(state: NodeState):
    for number in range(20):
        state.create(tenant(f"t{number}", 100 * MIB))
    with pytest.raises(CapacityError) as error:
        state.create(tenant("t20", 100 * MIB))
    assert error.value.message == (
        f"Error occurs when creating cGPU instance: unknown: GPU {GPU_UUIDS[0]} already has 20 tenants (maximum 20)"
    )


def test_mig_and_nonsense_are_refused(world: World):
    world.node = FakeNode((gpu(0, mig=True),))
    state = world.recovered()
    with pytest.raises(RefusedError, match="MIG"):
        state.create(tenant())
    with pytest.raises(UsageError, match="at least one"):
        state.create(Tenant("a", "a", ()))
    with pytest.raises(RefusedError, match="twice"):
        state.create(Tenant("a", "a", tenant().shares * 2))
    with pytest.raises(NoSuchGpuError, match="GPUs here: 0"):
        state.gpu("7")
    assert CGPU_MAX_GPUS == 16


def test_a_live_resize_reaches_the_region(state: NodeState):
    state.create(tenant("a"))
    state.set_share("a", ShareChange(memory_bytes=4 * GIB, weight=3))
    (row,) = granted(state, "a")
    assert (row.quota_bytes, row.weight) == (4 * GIB, 3)
    with pytest.raises(NoSuchTenantError):
        state.set_share("b", ShareChange(weight=1))
    with pytest.raises(RefusedError, match="no share of GPU 1"):
        state.set_share("a", ShareChange(gpu="1", weight=1))


def test_growth_is_admitted_and_shrinking_always_accepted(state: NodeState):
    state.create(tenant("a", 8 * GIB))
    state.create(tenant("b", 4 * GIB))
    with pytest.raises(CapacityError):
        state.set_share("a", ShareChange(memory_bytes=12 * GIB))
    assert granted(state, "a")[0].quota_bytes == 8 * GIB
    state.set_share("a", ShareChange(memory_bytes=1 * MIB))
    assert granted(state, "a")[0].quota_bytes == 1 * MIB


def test_one_of_two_gpus_is_resized_alone(state: NodeState):
    state.create(tenant("a", gpus=(0, 1)))
    state.set_share("a", ShareChange(gpu="1", memory_bytes=GIB))
    assert [row.quota_bytes for row in granted(state, "a")] == [2 * GIB, GIB]


def test_the_default_policy_becomes_weighted_with_the_first_weight_and_back(world: World, state: NodeState):
    state.create(tenant("a"))
    assert granted(state, "a")[0].policy == Policy.PREEMPTIVE
    state.create(tenant("b", weight=2))
    assert granted(state, "a")[0].policy == Policy.WEIGHTED
    assert world.arbiter.policies[GPU_UUIDS[0]] is Policy.WEIGHTED
    state.remove("b")
    assert granted(state, "a")[0].policy == Policy.PREEMPTIVE


def test_a_chosen_policy_stays(state: NodeState):
    state.set_policy(gpu(), GpuPolicy(Policy.NATIVE))
    state.create(tenant("a", weight=9))
    assert granted(state, "a")[0].policy == Policy.NATIVE


def test_more_time_than_the_card_has_is_promised_to_nobody(state: NodeState):
    state.create(tenant("a", compute_percent=60))
    state.create(tenant("b", compute_percent=60))  # recorded: policy 1 promises nothing
    with pytest.raises(CapacityError, match=r"120 % of its time"):
        state.set_policy(gpu(), GpuPolicy(Policy.FIXED))
    assert state.policy(gpu()).policy is None
    state.set_share("b", ShareChange(compute_percent=40))
    state.set_policy(gpu(), GpuPolicy(Policy.FIXED))
    with pytest.raises(CapacityError, match="105 %"):
        state.create(tenant("c"))  # one slice of 1/20
    with pytest.raises(CapacityError, match="101 %"):
        state.set_share("b", ShareChange(compute_percent=41))
    assert granted(state, "b")[0].compute_percent == 40


def test_a_limit_reaches_the_region(state: NodeState):
    state.create(tenant("a", compute_percent=30, compute_limit_percent=60))
    assert granted(state, "a")[0].compute_limit_percent == 60
    with pytest.raises(AmountError, match="below the share of 30 %"):
        state.set_share("a", ShareChange(compute_limit_percent=20))


def test_two_agents_exclude_each_other_per_gpu(world: World, state: NodeState):
    state.create(tenant("a"))
    other = World(world.folder / "other")
    other.folder.mkdir()
    (other.folder / "locks").symlink_to(world.folder / "locks")
    rival = other.recovered()
    with pytest.raises(AgentError, match="another agent"):
        rival.create(tenant("b"))
    rival.create(Tenant("b", "b", (Share(GPU_UUIDS[1], GIB),)))
    state.close()
    rival.create(tenant("c"))


def test_an_agent_that_is_ending_takes_no_tenants(state: NodeState):
    state.create(tenant("a"))
    assert not state.close_if_empty()
    state.remove("a")
    assert state.close_if_empty()
    with pytest.raises(AgentError, match="ending"):
        state.create(tenant("a"))


def test_a_caller_is_put_into_a_leaf_where_that_is_possible(world: World, state: NodeState):
    world.host.can_make_leaves = True
    record = state.create(tenant("a"), world.caller(50))
    assert record.tenant.cgroup == world.host.of(50) == "/cgpu-a"
    del world.host.table[50]
    state.remove("a")
    assert world.host.leaves == set()


def test_a_node_that_takes_none_any_more_keeps_those_that_it_has(world: World):
    active: list[str] = []

    def check() -> None:
        if active:
            raise RefusedError("something else manages the cards")

    state = world.agent(check_node=check)
    state.recover()
    state.create(tenant("a"))
    active.append("since now")
    with pytest.raises(RefusedError, match="something else"):
        state.create(tenant("b"))
    assert state.create(tenant("a")).tenant.name == "a"  # repeating it is no error
    assert state.set_share("a", ShareChange(memory_bytes=GIB)).tenant.shares[0].memory_bytes == GIB
    assert state.remove("a")


def test_changes_of_tenants_and_policies_are_told(state: NodeState):
    told: list[int] = []
    state.subscribe(lambda: told.append(len(state.records())))
    state.create(tenant("a"))
    state.set_policy(state.gpus()[0], GpuPolicy(Policy.FIXED))
    state.set_share("a", ShareChange(memory_bytes=GIB))
    state.remove("a")
    assert told[-1] == 0
    assert len(told) >= 4
