"""Containers as tenants, and the driver's limits on their cgroups: set, followed, given back, never left behind."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.containers import own_cgroup
from cgpu.agent.documents import Limit, NodeDocument, ProcessRef, Record, decode, encode
from cgpu.agent.state import NodeState
from cgpu.agent.wishes import ShareChange
from cgpu.errors import DriverError, LayerError, NoSuchTenantError, RefusedError, TenantExistsError
from cgpu.model import container as container_paths
from cgpu.model.container import REGION
from cgpu.model.region_files import GRANTS, LOCKS, USAGE
from cgpu.model.tenant import MemoryLayer, Tenant
from cgpu.model.units import GIB
from cgpu.testing.fakes import GPU_UUIDS
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import World, tenant
from tests.unit.agent.test_killed import killed_at

RUNTIME, INIT, HOOK = 50, 70, 60
LIMIT = (GPU_UUIDS[0], "/docker/c1")


def container(tenant_id: str = "oci-c1", **fields: Any) -> Tenant:
    return replace(tenant(tenant_id), container="c1", **fields)


@pytest.fixture
def world(world: World) -> World:
    """A host with cgroup v2 and a driver that has limits."""
    world.node.has_limits = world.host.has_v2 = world.host.can_make_leaves = True
    world.host.spawn(HOOK, cgroup="/system.slice/docker")
    return world


@pytest.fixture
def state(world: World) -> NodeState:
    return world.recovered()


def started(world: World, state: NodeState, **fields: Any) -> Record:
    """A container whose first process waits to begin."""
    state.create(container(**fields), world.caller(RUNTIME))
    world.host.spawn(INIT, pid=1, cgroup="/docker/c1")
    return state.attach("oci-c1", INIT, HOOK)


def test_a_region_of_a_container_is_open_files_in_a_closed_folder(world: World, state: NodeState):
    state.create(container(), world.caller(RUNTIME))
    region = state.region("oci-c1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (region, *region.iterdir())}
    assert modes == {"oci-c1": 0o700, GRANTS: 0o644, USAGE: 0o666, LOCKS: 0o666}
    assert world.host.table[RUNTIME].cgroup == "/"  # the runtime is not moved


def test_the_limits_are_there_once_the_container_is_attached_and_not_before(world: World, state: NodeState):
    record = state.create(container(), world.caller(RUNTIME))
    assert (record.tenant.memory_layer, world.node.limits) == (MemoryLayer.DRIVER, {})
    world.host.spawn(INIT, pid=1, cgroup="/docker/c1")
    record = state.attach("oci-c1", INIT, HOOK)
    assert (record.tenant.cgroup, record.root) == ("/docker/c1", ProcessRef(INIT, 10 * INIT))
    assert world.node.limits == {LIMIT: (2 * GIB, 2 * GIB)}
    assert state.attach("oci-c1", INIT, HOOK) == record


def test_the_limits_follow_the_share(world: World, state: NodeState):
    started(world, state)
    state.set_share("oci-c1", ShareChange(memory_bytes=3 * GIB))
    assert world.node.limits == {LIMIT: (3 * GIB, 3 * GIB)}


@pytest.mark.parametrize("how", ["remove", "tick", "ending", "restart"])
def test_every_end_clears_the_limits_soft_before_hard_and_leaves_nothing(world: World, state: NodeState, how: str):
    started(world, state)
    if how != "remove":
        del world.host.table[INIT]
    if how == "remove":
        state.remove("oci-c1")
    elif how == "ending":
        state.container_ends("oci-c1")
    else:
        if how == "restart":
            state.close()
            state = world.recovered()
        world.tick(world.reconciler(state))
    assert world.node.limits == {}
    first_hard = 16 * GIB if how == "restart" else 2 * GIB
    assert world.node.limit_calls[-2:] == [("/docker/c1", 0, first_hard), ("/docker/c1", 0, None)]
    assert state.records() == ()
    assert not state.region("oci-c1").exists()


def test_the_end_of_a_living_container_gives_back_what_is_kept_for_it_and_no_more(world: World, state: NodeState):
    started(world, state)
    state.container_ends("oci-c1")
    assert world.node.limits == {LIMIT: (0, 2 * GIB)}
    assert [record.tenant.id for record in state.records()] == ["oci-c1"]
    with pytest.raises(NoSuchTenantError):
        state.container_ends("oci-c2")


def test_a_container_whose_runtime_dies_before_it_begins_is_removed(world: World, state: NodeState):
    state.create(container(), world.caller(RUNTIME))
    del world.host.table[RUNTIME]
    assert world.tick(world.reconciler(state)).tenants_left == 0


def test_what_outlives_the_first_process_keeps_the_tenant(world: World, state: NodeState):
    started(world, state)
    world.host.spawn(71, cgroup="/docker/c1")
    del world.host.table[INIT]
    reconciler = world.reconciler(state)
    assert world.tick(reconciler).tenants_left == 1
    del world.host.table[71]
    assert world.tick(reconciler).tenants_left == 0


def test_a_container_that_starts_again_before_its_end_was_seen_is_a_new_tenant(world: World, state: NodeState):
    started(world, state)
    del world.host.table[INIT]
    record = state.create(container(), world.caller(51))
    assert (record.root, record.tenant.cgroup) == (ProcessRef(51, 510), "")
    assert world.node.limits == {}


def test_two_containers_are_never_one_tenant(world: World, state: NodeState):
    started(world, state)
    with pytest.raises(TenantExistsError):
        state.create(replace(container(), container="c1-and-more"), world.caller(51))


def test_processes_that_are_not_the_containers_own_are_refused(world: World, state: NodeState):
    started(world, state)
    world.host.spawn(72, cgroup="/docker/c1")
    with pytest.raises(RefusedError, match="attached to process 70"):
        state.attach("oci-c1", 72, HOOK)
    with pytest.raises(RefusedError, match="no process 99"):
        state.attach("oci-c1", 99, HOOK)
    state.create(replace(container("oci-c2"), name="c2", container="c2"), world.caller(51))
    with pytest.raises(RefusedError, match="of tenant 'oci-c1'"):
        state.attach("oci-c2", 72, HOOK)
    state.create(tenant("plain"))
    with pytest.raises(RefusedError, match="not a container's"):
        state.attach("plain", 72, HOOK)


def test_a_cgroup_that_the_container_shares_is_not_its_own(world: World, state: NodeState):
    state.create(container(), world.caller(RUNTIME))
    world.host.spawn(INIT, pid=1, cgroup="/system.slice/docker")
    record = state.attach("oci-c1", INIT, HOOK)
    assert (record.tenant.cgroup, record.tenant.memory_layer) == ("", MemoryLayer.SHIM)
    assert world.node.limits == {}
    assert own_cgroup("/a/b", ["/a", "/a/bc", "/"]) == "/a/b"
    assert own_cgroup("/a/b", ["/a/b/c"]) == ""


def test_a_driver_that_refuses_keeps_the_container_from_starting(world: World, state: NodeState):
    world.node.refuses = {GPU_UUIDS[0]}
    with pytest.raises(DriverError, match="GPU 0: cgroup /docker/c1"):
        started(world, state)
    world.node.refuses = set()
    del world.host.table[INIT]
    assert world.tick(world.reconciler(state)).tenants_left == 0
    assert world.node.limits == {}


def test_what_the_driver_does_not_clear_is_tried_again_even_by_the_next_agent(world: World, state: NodeState):
    started(world, state)
    world.node.refuses = {GPU_UUIDS[0]}
    state.remove("oci-c1")
    assert world.node.limits != {}
    state.close()
    again = world.recovered()
    assert world.node.limits != {}
    world.node.refuses = set()
    world.tick(world.reconciler(again))
    assert world.node.limits == {}
    calls = len(world.node.limit_calls)
    world.tick(world.reconciler(again))
    assert len(world.node.limit_calls) == calls


def test_a_deleted_cgroup_took_its_limits_with_it(world: World, state: NodeState):
    started(world, state)
    world.host.deleted.add("/docker/c1")
    calls = len(world.node.limit_calls)
    state.remove("oci-c1")
    state.close()
    world.recovered()
    assert len(world.node.limit_calls) == calls


def test_a_process_tree_in_a_leaf_has_limits_from_its_beginning_to_its_end(world: World, state: NodeState):
    record = state.create(tenant("a"), world.caller(RUNTIME))
    assert record.tenant.memory_layer is MemoryLayer.DRIVER
    assert world.node.limits == {(GPU_UUIDS[0], "/cgpu-a"): (2 * GIB, 2 * GIB)}
    del world.host.table[RUNTIME]
    assert world.tick(world.reconciler(state)).tenants_left == 0
    assert world.node.limits == {}
    assert world.host.leaves == set()


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("driver", r"GPU 0 \(.*, driver .*\) has no memory limits of the driver"), ("cgroup", "no cgroup of its own")],
)
@pytest.mark.parametrize("required", [None, MemoryLayer.SHIM])
def test_a_container_without_the_shim_is_refused_where_the_driver_does_not_hold_it(
    world: World, lacking: str, said: str, required: MemoryLayer | None
):
    world.node.has_limits = lacking != "driver"
    state = world.recovered()
    record = state.create(container(require_layer=required), world.caller(RUNTIME))
    world.host.spawn(INIT, pid=1, cgroup="/" if lacking == "cgroup" else "/docker/c1")
    with pytest.raises(LayerError, match=f"'oci-c1', and the driver .*: its C library is musl; .*{said}") as told:
        state.attach("oci-c1", INIT, HOOK, shim_problem="its C library is musl")
    assert "use an image with glibc" in told.value.remedy
    assert state.records() == (record,)  # it is still its runtime's, and ends with that
    del world.host.table[INIT], world.host.table[RUNTIME]
    assert world.tick(world.reconciler(state)).tenants_left == 0


def test_a_container_without_the_shim_that_the_driver_holds_may_start(world: World, state: NodeState):
    state.create(container(), world.caller(RUNTIME))
    world.host.spawn(INIT, pid=1, cgroup="/docker/c1")
    record = state.attach("oci-c1", INIT, HOOK, shim_problem="its C library is musl")
    assert record.tenant.memory_layer is MemoryLayer.DRIVER
    assert world.node.limits == {LIMIT: (2 * GIB, 2 * GIB)}


@pytest.mark.parametrize("lacking", ["driver", "cgroup"])
def test_a_required_layer_is_never_replaced_by_a_weaker_one(world: World, lacking: str):
    world.node.has_limits = lacking != "driver"
    world.host.has_v2 = lacking != "cgroup"
    state = world.recovered()
    with pytest.raises(LayerError, match="requires the memory layer driver, and gets shim"):
        state.create(container(require_layer=MemoryLayer.DRIVER), world.caller(RUNTIME))
    assert state.records() == ()
    record = state.create(container(require_layer=MemoryLayer.SHIM), world.caller(RUNTIME))
    assert record.tenant.memory_layer is MemoryLayer.SHIM


def test_a_tenant_without_a_cgroup_has_no_driver_layer(world: World, state: NodeState):
    with pytest.raises(LayerError, match="no cgroup of its own"):
        state.create(tenant("a").__class__("a", "a", tenant().shares, require_layer=MemoryLayer.DRIVER))
    with pytest.raises(LayerError, match="no cgroup of its own"):
        state.create(replace(tenant("cdi-web"), container="cdi", require_layer=MemoryLayer.DRIVER))
    state.create(container(require_layer=MemoryLayer.DRIVER), world.caller(RUNTIME))
    world.host.spawn(INIT, pid=1, cgroup="/")
    with pytest.raises(LayerError, match="no cgroup of its own"):
        state.attach("oci-c1", INIT, HOOK)


def test_a_container_is_taken_over_without_a_checkpoint_and_ends(world: World, state: NodeState):
    started(world, state)
    process = TenantProcess(state.region("oci-c1"), 0, 1, 10 * INIT)
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    (record,) = again.records()
    assert (record.tenant.container, record.tenant.cgroup, record.root) == (
        "c1",
        "/docker/c1",
        ProcessRef(INIT, 10 * INIT),
    )
    assert record.tenant.memory_layer is MemoryLayer.SHIM  # which limits there were, no one knows
    process.die()
    del world.host.table[INIT]
    assert world.tick(world.reconciler(again)).tenants_left == 0
    process.close()


def test_an_idle_container_is_taken_over_without_a_checkpoint_and_ends(world: World, state: NodeState):
    """Nobody of it is on a GPU: what tells of it is the region that its processes have mounted."""
    record = started(world, state)
    for host_pid in (INIT + 1, INIT):
        world.host.spawn(host_pid, cgroup="/docker/c1").mounted[REGION / GRANTS] = state.region("oci-c1") / GRANTS
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    assert again.records() == (replace(record, tenant=replace(record.tenant, memory_layer=MemoryLayer.SHIM)),)
    del world.host.table[INIT], world.host.table[INIT + 1]
    assert world.tick(world.reconciler(again)).tenants_left == 0


def test_a_container_that_nobody_is_in_is_not_taken_over(world: World, state: NodeState):
    state.create(container(), world.caller(RUNTIME))
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    assert again.records() == ()
    assert not again.region("oci-c1").exists()


def test_a_cdi_device_is_taken_over_without_a_checkpoint_and_stays(world: World, state: NodeState):
    state.create(replace(tenant("cdi-web"), container="cdi"))
    state.close()
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    (record,) = again.records()
    assert (record.tenant.container, record.root) == ("cdi", None)
    assert world.tick(world.reconciler(again)).tenants_left == 1


def test_the_checkpoint_keeps_all_of_it_and_an_older_one_is_read():
    record = Record(container(require_layer=MemoryLayer.DRIVER, memory_layer=MemoryLayer.DRIVER), ProcessRef(1, 2))
    document = NodeDocument({"oci-c1": record}, {}, {}, frozenset({Limit("/docker/c1", GPU_UUIDS[0])}))
    assert decode(encode(document)) == document
    older = encode(document)
    del older["limits"], older["tenants"][0]["tenant"]["container"], older["tenants"][0]["tenant"]["require_layer"]
    assert decode(older).records["oci-c1"].tenant.require_layer is None


def test_an_attachment_that_is_killed_at_any_step_is_made_or_not_and_leaves_no_limit(tmp_path: Path):
    def operation(state: NodeState) -> None:
        state.attach("oci-c1", INIT, HOOK)

    number, outcomes = 0, set()
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        world = World(folder)
        world.node.has_limits = world.host.has_v2 = True
        state = world.recovered()
        state.create(container(), world.caller(RUNTIME))
        state.close()
        world.host.spawn(HOOK, cgroup="/system.slice/docker")
        world.host.spawn(INIT, pid=1, cgroup="/docker/c1")
        killed = killed_at(world, operation, number)
        # What the killed agent had set, the driver still holds.
        world.node.limits[LIMIT] = (2 * GIB, 2 * GIB)
        state = world.recovered()
        world.tick(world.reconciler(state))
        is_attached = state.record("oci-c1").tenant.cgroup != ""
        outcomes.add(is_attached)
        if is_attached:
            assert world.node.limit_calls == [("/docker/c1", 2 * GIB, 2 * GIB)]
        operation(state)
        state.remove("oci-c1")
        assert world.node.limits == {}, f"step {number}"
        state.close()
        if not killed:
            break
        number += 1
    assert outcomes == {True, False}


def test_a_container_that_damages_its_region_still_ends_and_keeps_nobody_else(world: World, state: NodeState):
    started(world, state)
    state.create(tenant("b", GIB), world.caller(51))
    (state.region("oci-c1") / USAGE).write_bytes(b"")
    del world.host.table[INIT], world.host.table[51]
    assert world.tick(world.reconciler(state)).tenants_left == 0
    assert world.node.limits == {}


def device(world: World, state: NodeState) -> Path:
    """A CDI device's tenant; its region."""
    state.create(replace(tenant("cdi-web"), name="web", container="cdi"))
    return state.region("cdi-web")


def test_a_cdi_devices_tenant_is_no_containers_and_outlives_them_all(world: World, state: NodeState):
    region = device(world, state)
    assert stat.S_IMODE(region.stat().st_mode) == 0o700
    world.host.spawn(INIT, pid=1, cgroup="/docker/c1")
    with pytest.raises(RefusedError, match="not a container's"):
        state.attach("cdi-web", INIT, HOOK)
    process = TenantProcess(region, 0, 1, 10 * INIT)
    assert world.tick(world.reconciler(state)).tenants_left == 1
    process.die()
    del world.host.table[INIT]
    assert world.tick(world.reconciler(state)).tenants_left == 1
    state.close()
    again = world.recovered()
    (record,) = again.records()
    assert (record.root, record.tenant.memory_layer, world.node.limits) == (None, MemoryLayer.SHIM, {})
    process.close()


def test_no_device_has_the_drivers_layer_and_the_way_out_is_told(world: World, state: NodeState):
    with pytest.raises(LayerError, match="any number of containers") as told:
        state.create(replace(tenant("cdi-web"), container="cdi", require_layer=MemoryLayer.DRIVER))
    assert "CGPU_REQUIRE_LAYER" in told.value.remedy


def test_what_has_a_tenants_region_mounted_is_its_own_whatever_its_environment_says(world: World, state: NodeState):
    region = device(world, state)
    state.create(tenant("other", GIB))
    place = container_paths.REGION / GRANTS
    world.host.spawn(80, region=state.region("other")).mounted[place] = region / GRANTS
    world.host.spawn(81, region=region).mounted[place] = world.folder / "forged" / GRANTS
    world.node.listed[GPU_UUIDS[0]] = [GpuProcess(80, GIB // 2), GpuProcess(81, GIB // 4)]
    survey = state.survey()
    on = {name: survey.on(name, GPU_UUIDS[0]) for name in ("cdi-web", "other")}
    assert [(process.host_pid, process.bypasses_shim) for process in on["cdi-web"].processes] == [(80, True)]
    assert on["other"].processes == []
    assert on["cdi-web"].truth_bytes == GIB // 2


def test_regions_that_come_and_go_are_known_by_their_mounts(world: World, state: NodeState):
    place = container_paths.REGION / GRANTS
    for name in ("first", "second"):
        state.create(tenant(name, GIB))
        host_pid = 90 + len(name)
        world.host.spawn(host_pid).mounted[place] = state.region(name) / GRANTS
        world.node.listed[GPU_UUIDS[0]] = [GpuProcess(host_pid, GIB // 2)]
        assert len(state.survey().on(name, GPU_UUIDS[0]).processes) == 1
        state.remove(name)
        assert state.survey().cards[GPU_UUIDS[0]].tenants == {}
