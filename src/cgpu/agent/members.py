"""The containers that use a claim's tenant together, and what of a driver's limits holds them to one quota. Pure.

A limit binds a cgroup and all below it, and each container has a cgroup of its own. One container has the limit
there. Several of one pod have it on the pod's cgroup as well, as long as no other tenant's containers are in that
pod. Otherwise (pods that share a claim, two tenants in one pod) nothing of the driver's binds them together: each
alone has at most the quota, and together only the shim holds them to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from cgpu.adapters.cgroup import is_within
from cgpu.agent.documents import Member, Record
from cgpu.errors import LayerError
from cgpu.model.tenant import MemoryLayer

_POD = "pod"  # is in the names of the cgroups that kubelets make for pods, with either of their drivers


def with_member(members: Iterable[Member], new: Member) -> tuple[Member, ...]:
    """The containers with another one; a hook that is called again says the same."""

    def is_same(member: Member) -> bool:
        return member.process == new.process or (new.cgroup != "" and member.cgroup == new.cgroup)

    return (*(member for member in members if not is_same(member)), new)


def joint_cgroup(record: Record, records: Iterable[Record]) -> str:
    """The cgroup of a pod that has all the tenant's containers, two or more, and no other tenant's; else ""."""
    if len(record.members) < 2:
        return ""
    parents = {str(PurePosixPath(member.cgroup).parent) if member.cgroup else "" for member in record.members}
    if len(parents) != 1:
        return ""
    (parent,) = parents
    others = (other for other in records if other.tenant.id != record.tenant.id)
    if _POD not in PurePosixPath(parent).name or any(is_within(path, parent) for row in others for path in row.cgroups):
        return ""
    return parent


def held_by_driver(record: Record, records: Iterable[Record]) -> bool:
    """Whether the driver's limits hold the containers to the tenant's quota, all of them together."""
    if any(not member.cgroup for member in record.members):
        return False
    return len(record.members) < 2 or joint_cgroup(record, records) != ""


def with_layers(records: Mapping[str, Record]) -> dict[str, Record]:
    """The records with the layer in force of every tenant that has containers of this kind."""

    def layered(record: Record) -> Record:
        if not record.members:
            return record
        layer = MemoryLayer.DRIVER if held_by_driver(record, records.values()) else MemoryLayer.SHIM
        return replace(record, tenant=replace(record.tenant, memory_layer=layer))

    return {tenant_id: layered(record) for tenant_id, record in records.items()}


def held(records: Mapping[str, Record]) -> dict[str, Record]:
    """``with_layers``; raises LayerError where a container loads no shim and the driver does not hold it either."""
    layered = with_layers(records)
    for record in layered.values():
        if record.tenant.memory_layer is MemoryLayer.DRIVER or all(member.loads_shim for member in record.members):
            continue
        raise LayerError(
            f"a container of {record.tenant.name} cannot load the shim, and the driver's limits would not hold it"
            " together with the others that are there",
            "give it a claim of its own, in a pod of its own, or an image with glibc",
        )
    return layered
