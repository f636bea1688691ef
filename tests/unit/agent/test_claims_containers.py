"""Several containers with one claim: what of the driver's limits holds them to one quota, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cgpu.agent.documents import Member, NodeDocument, ProcessRef, Record, decode, encode
from cgpu.agent.members import joint_cgroup
from cgpu.agent.state import NodeState
from cgpu.agent.wishes import ShareChange
from cgpu.errors import LayerError, RefusedError
from cgpu.model.container import REGION
from cgpu.model.region_files import GRANTS
from cgpu.model.tenant import MemoryLayer, Tenant
from cgpu.model.units import GIB
from tests.unit.agent.conftest import World, tenant

HOOK = 60
POD = "/kubepods/besteffort/pod1"
ONLY_HARD = (0, 2 * GIB)


@pytest.fixture
def world(world: World) -> World:
    """A host with cgroup v2 and a driver that has limits."""
    world.node.has_limits = world.host.has_v2 = True
    world.host.spawn(HOOK, cgroup="/system.slice/containerd")
    return world


@pytest.fixture
def state(world: World) -> NodeState:
    made = world.recovered()
    made.create(claim("k8s-a-0"))
    made.create(claim("k8s-b-0"))
    return made


def claim(tenant_id: str) -> Tenant:
    return replace(tenant(tenant_id), container="cdi")


def join(
    world: World, state: NodeState, pid: int, cgroup: str, *, name: str = "k8s-a-0", shim_problem: str = ""
) -> MemoryLayer:
    """A container's first process waits to begin; the layer that the tenant has then."""
    world.host.spawn(pid, pid=1, cgroup=cgroup)
    return state.attach(name, pid, HOOK, shim_problem=shim_problem).tenant.memory_layer


def end(world: World, state: NodeState, *pids: int) -> None:
    for pid in pids:
        del world.host.table[pid]
    world.tick(world.reconciler(state))


def limits(world: World) -> dict[str, tuple[int, int]]:
    return {cgroup: bounds for (_, cgroup), bounds in world.node.limits.items()}


def layer(state: NodeState, name: str = "k8s-a-0") -> MemoryLayer:
    return state.record(name).tenant.memory_layer


def test_a_container_has_the_limit_until_it_ends_and_the_tenant_stays(world: World, state: NodeState):
    assert (layer(state), limits(world)) == (MemoryLayer.DRIVER, {})
    assert join(world, state, 71, f"{POD}/x") is MemoryLayer.DRIVER
    assert join(world, state, 71, f"{POD}/x") is MemoryLayer.DRIVER  # its hook is called again
    assert limits(world) == {f"{POD}/x": ONLY_HARD}
    state.set_share("k8s-a-0", ShareChange(memory_bytes=3 * GIB))
    assert limits(world) == {f"{POD}/x": (0, 3 * GIB)}
    end(world, state, 71)
    assert (layer(state), limits(world)) == (MemoryLayer.DRIVER, {})


def test_several_containers_of_a_pod_have_the_quota_together(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    assert join(world, state, 72, f"{POD}/y") is MemoryLayer.DRIVER
    assert limits(world) == {POD: ONLY_HARD, f"{POD}/x": ONLY_HARD, f"{POD}/y": ONLY_HARD}
    end(world, state, 71)
    assert limits(world) == {f"{POD}/y": ONLY_HARD}
    assert layer(state) is MemoryLayer.DRIVER


def test_containers_of_two_pods_have_it_each_and_the_layer_says_so(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    assert join(world, state, 72, "/kubepods/besteffort/pod2/y") is MemoryLayer.SHIM
    assert limits(world) == {f"{POD}/x": ONLY_HARD, "/kubepods/besteffort/pod2/y": ONLY_HARD}
    end(world, state, 71, 72)
    assert (layer(state), limits(world)) == (MemoryLayer.DRIVER, {})


def test_a_pod_with_two_claims_is_nobodys_and_becomes_one_tenants_again(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    join(world, state, 72, f"{POD}/y")
    assert join(world, state, 73, f"{POD}/z", name="k8s-b-0") is MemoryLayer.DRIVER
    assert layer(state) is MemoryLayer.SHIM
    assert set(limits(world)) == {f"{POD}/x", f"{POD}/y", f"{POD}/z"}
    end(world, state, 73)
    assert layer(state) is MemoryLayer.DRIVER
    assert limits(world)[POD] == ONLY_HARD


def test_without_the_shim_a_container_is_refused_where_the_driver_would_not_hold_it(world: World, state: NodeState):
    assert join(world, state, 71, f"{POD}/x", shim_problem="it is musl") is MemoryLayer.DRIVER
    with pytest.raises(LayerError, match="cannot load the shim"):
        join(world, state, 72, "/kubepods/pod2/y")
    assert set(limits(world)) == {f"{POD}/x"}
    join(world, state, 73, f"{POD}/z")  # together by the pod's cgroup
    with pytest.raises(LayerError, match="cannot load the shim"):
        join(world, state, 74, f"{POD}/w", name="k8s-b-0")
    assert POD in limits(world)


@pytest.mark.parametrize("cgroup", ["/", "/system.slice", "/system.slice/containerd"])
def test_without_a_cgroup_of_its_own_only_the_shim_holds_it(world: World, state: NodeState, cgroup: str):
    assert join(world, state, 71, cgroup) is MemoryLayer.SHIM
    assert limits(world) == {}
    with pytest.raises(LayerError, match="it is musl; it has no cgroup of its own"):
        join(world, state, 72, cgroup, shim_problem="it is musl")


def test_an_older_driver_has_no_limits_to_set(world: World):
    world.node.has_limits = False
    state = world.recovered()
    state.create(claim("k8s-a-0"))
    assert layer(state) is MemoryLayer.SHIM
    assert join(world, state, 71, f"{POD}/x") is MemoryLayer.SHIM
    assert limits(world) == {}


def test_anothers_process_is_refused(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    with pytest.raises(RefusedError, match="is of tenant 'k8s-a-0'"):
        join(world, state, 72, f"{POD}/x/below", name="k8s-b-0")
    state.create(replace(tenant("cdi-web"), container="cdi"))
    with pytest.raises(RefusedError, match="not a container's"):
        join(world, state, 73, "/other", name="cdi-web")


def test_a_killed_agent_finds_the_containers_again(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    join(world, state, 72, f"{POD}/y")
    state.close()
    again = world.recovered()
    assert len(again.record("k8s-a-0").members) == 2
    del world.host.table[71], world.host.table[72]
    world.tick(world.reconciler(again))
    assert limits(world) == {}
    again.remove("k8s-a-0")


def test_a_tenant_that_is_removed_leaves_no_limit(world: World, state: NodeState):
    join(world, state, 71, f"{POD}/x")
    join(world, state, 72, f"{POD}/y")
    state.remove("k8s-a-0")
    assert limits(world) == {}


def test_without_a_checkpoint_a_claim_is_taken_over_with_its_containers_and_stays(world: World, state: NodeState):
    for pid, cgroup in ((71, f"{POD}/x"), (72, f"{POD}/x"), (73, f"{POD}/x/below"), (74, f"{POD}/y")):
        world.host.spawn(pid, cgroup=cgroup).mounted[REGION / GRANTS] = state.region("k8s-a-0") / GRANTS
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    record = again.record("k8s-a-0")
    assert (record.tenant.container, record.root) == ("cdi", None)
    assert {member.cgroup: member.process.host_pid for member in record.members} == {f"{POD}/x": 71, f"{POD}/y": 74}
    for pid in (71, 72, 73, 74):
        del world.host.table[pid]
    assert world.tick(world.reconciler(again)).tenants_left == 2


def test_the_checkpoint_keeps_the_containers_and_an_older_one_has_none():
    members = (Member(ProcessRef(1, 2), f"{POD}/x"), Member(ProcessRef(3, 4), "", loads_shim=False))
    document = NodeDocument({"k8s-a-0": Record(claim("k8s-a-0"), None, members)}, {}, {})
    assert decode(encode(document)) == document
    older = encode(document)
    del older["tenants"][0]["members"]
    assert decode(older).records["k8s-a-0"].members == ()


@pytest.mark.parametrize(
    ("cgroups", "joint"),
    [
        (("/kubepods/pod1/x", "/kubepods/pod1/y"), "/kubepods/pod1"),
        (("/a.slice/kubepods-pod1.slice/cri-x.scope", "/a.slice/kubepods-pod1.slice/cri-y.scope"),
         "/a.slice/kubepods-pod1.slice"),
        (("/k8s.io/x", "/k8s.io/y"), ""),
        (("/x", "/y"), ""),
        (("/kubepods/pod1/x", ""), ""),
        ((), ""),
    ],
)  # fmt: skip
def test_only_a_pods_cgroup_is_a_joint_one(cgroups: tuple[str, ...], joint: str):
    members = tuple(Member(ProcessRef(number, 1), path) for number, path in enumerate(cgroups))
    record = Record(claim("k8s-a-0"), None, members)
    assert joint_cgroup(record, (record,)) == joint
