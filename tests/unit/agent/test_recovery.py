"""What an agent does with what its predecessor left."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cgpu.adapters.nvml import GpuProcess
from cgpu.agent.views import Views
from cgpu.errors import RegionError, StateError
from cgpu.model.container import REGION
from cgpu.model.region_files import GRANTS, USAGE
from cgpu.model.tenant import GpuPolicy, Policy
from cgpu.model.units import GIB, MIB
from cgpu.region.reader import RegionReader
from cgpu.testing.fakes import GPU_UUIDS, FakeNode, gpu
from cgpu.testing.tenant_process import TenantProcess
from tests.unit.agent.conftest import World, tenant


def test_everything_survives(world: World):
    world.context_bytes = 123 * MIB
    state = world.recovered()
    state.create(tenant("a", gpus=(0, 1), weight=3), world.caller(50))
    state.set_policy(gpu(), GpuPolicy(Policy.NATIVE, 5, overcommit=True))
    world.context_bytes = None
    state.close()
    again = world.recovered()
    assert again.records() == state.records()
    assert again.policy(gpu()) == GpuPolicy(Policy.NATIVE, 5, overcommit=True)
    assert again.context_bytes(gpu()) == 123 * MIB


def test_a_running_tenants_region_is_kept_as_it_is(world: World):
    state = world.recovered()
    state.create(tenant("a"))
    process = TenantProcess(state.region("a"), 0, 41, 410)
    process.charge(GIB)
    state.close()
    again = world.recovered()
    reader = RegionReader(again.region("a"))
    assert reader.usage(1).gpus[0].used_bytes == GIB
    process.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1}',
        '{"version": 1, "tenants": [3], "policies": {}, "contexts": {}}',
    ],
)
def test_an_unreadable_checkpoint_is_kept_aside_and_an_error(world: World, text: str):
    (world.folder / "checkpoint.json").write_text(text)
    with pytest.raises(StateError, match=r"kept as checkpoint\.json\.unreadable"):
        world.recovered()
    assert (world.folder / "checkpoint.json.unreadable").read_text() == text
    (world.folder / "checkpoint.json").write_text("again")
    with pytest.raises(StateError, match="unreadable-2"):
        world.recovered()


def test_without_a_checkpoint_the_regions_in_use_are_taken_over(world: World):
    state = world.recovered()
    state.create(tenant("a", 3 * GIB, weight=2))
    state.create(tenant("idle", GIB))
    state.close()
    process = TenantProcess(state.region("a"), 0, 41, 410)
    (world.folder / "checkpoint.json").unlink()
    again = world.recovered()
    (record,) = again.records()
    assert record.tenant.shares == tenant("a", 3 * GIB, weight=2).shares
    assert record.root is None
    assert not again.region("idle").exists()
    process.close()


def test_a_damaged_region_is_a_fault_of_that_tenant_alone(world: World):
    state = world.recovered()
    state.create(tenant("a"))
    state.create(tenant("b"))
    state.close()
    (state.region("a") / GRANTS).write_bytes(b"x" * 400000)
    again = world.recovered()
    assert "not a region file" in again.fault("a")
    assert again.fault("b") == ""
    assert {record.tenant.id for record in again.records()} == {"a", "b"}
    assert again.remove("a")


@pytest.mark.parametrize("file", [GRANTS, USAGE])
@pytest.mark.parametrize("known_by", ["cgroup", "mount", "variable"])
def test_what_a_tenant_with_a_damaged_region_holds_is_still_its_own(world: World, file: str, known_by: str):
    world.node.has_limits = world.host.has_v2 = True
    state = world.recovered()
    state.create(replace(tenant("oci-c1", 8 * GIB), container="c1"), world.caller(50))
    init = world.host.spawn(60, pid=1, cgroup="/docker/c1" if known_by == "cgroup" else "/")
    if known_by == "cgroup":
        state.attach("oci-c1", 60, 50)
    elif known_by == "mount":
        init.mounted[REGION / GRANTS] = state.region("oci-c1") / GRANTS
    elif known_by == "variable":
        init.variables["CGPU_REGION"] = str(state.region("oci-c1"))
    state.close()
    (state.region("oci-c1") / file).write_bytes(b"x" * 400000)
    world.node.listed[GPU_UUIDS[0]] = [GpuProcess(60, 7 * GIB), GpuProcess(99, GIB)]
    world.host.spawn(99)
    again = world.recovered()
    assert "not a region file" in again.fault("oci-c1")
    watched = world.tick(world.reconciler(again))
    assert 60 in watched.host_pids
    survey = again.survey()
    assert survey.on("oci-c1", GPU_UUIDS[0]).truth_bytes == 7 * GIB
    assert survey.foreign_bytes(GPU_UUIDS[0]) == GIB + world.node.reserved_bytes
    again.create(tenant("b", 6 * GIB))  # what it holds does not count a second time beside its quota
    document = Views(again, world.node, private=False, runtime_dir="").tenant(again.record("oci-c1"))
    assert "not a region file" in document["fault"]
    assert document["shares"][0]["used_bytes"] == 7 * GIB
    assert [process["host_pid"] for process in document["shares"][0]["processes"]] == [60]
    world.node.listed[GPU_UUIDS[0]].clear()
    assert again.remove("oci-c1")
    assert again.survey().foreign_bytes(GPU_UUIDS[0]) == world.node.reserved_bytes


def test_a_gpu_that_is_gone_is_a_fault(world: World):
    state = world.recovered()
    state.create(tenant("a", gpus=(1,)))
    state.close()
    world.node = FakeNode((gpu(0),))
    again = world.recovered()
    assert GPU_UUIDS[1] in again.fault("a")
    world.tick(world.reconciler(again))
    views = Views(again, world.node, private=False, runtime_dir="")
    for document in (*views.tenants(), views.tenant(again.record("a"))):
        assert GPU_UUIDS[1] in document["fault"]
        assert document["shares"][0]["gpu_index"] is None
    assert again.remove("a")


def test_a_full_disk_leaves_everything_as_it_was(world: World, monkeypatch: pytest.MonkeyPatch):
    state = world.recovered()
    state.create(tenant("a"))

    def refuse(*_: object) -> None:
        raise RegionError("no space left")

    monkeypatch.setattr("cgpu.agent.regions.create_region", refuse)
    with pytest.raises(RegionError, match="no space"):
        state.create(tenant("b"))
    assert [record.tenant.id for record in state.records()] == ["a"]
    document = json.loads((world.folder / "checkpoint.json").read_text())
    assert [row["tenant"]["id"] for row in document["tenants"]] == ["a"]
