"""The driver's own memory limits (r615 and later): which tenants can have them, and bringing them about.

Soft and hard limit are both the quota: the card is partitioned. A limit belongs to a cgroup, so a
tenant needs one of its own. Before a cgroup is deleted its soft limit must be 0: what the cgroups
above it keep for it stays kept otherwise. Nobody tells the agent before a kubelet's runtime deletes
one, so the containers of claims have hard limits alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from cgpu.agent.containers import is_container
from cgpu.agent.documents import Limit, Record
from cgpu.agent.members import joint_cgroup
from cgpu.agent.ports import Cgroups, GpuNode
from cgpu.errors import DriverError, LayerError
from cgpu.model.container import cdi_name_of, is_claims
from cgpu.model.tenant import Gpu, MemoryLayer, Tenant


class Bounds(NamedTuple):
    """What a cgroup may have of a card."""

    soft_bytes: int  # is kept for it
    hard_bytes: int  # is the most


def wanted_limits(records: Iterable[Record]) -> dict[Limit, Bounds]:
    """The limits of these tenants, which are all that there are."""
    records = tuple(records)
    found: dict[Limit, Bounds] = {}
    for record in records:
        found |= limits_of(record, records)
    return found


def limits_of(record: Record, records: Iterable[Record]) -> dict[Limit, Bounds]:
    """Those of ``wanted_limits`` that are this tenant's."""
    tenant = record.tenant
    own = tenant.cgroup if tenant.memory_layer is MemoryLayer.DRIVER else ""
    members = {member.cgroup for member in record.members} | {joint_cgroup(record, records)}
    found: dict[Limit, Bounds] = {}
    for share in tenant.shares:
        size_bytes = share.memory_bytes
        found |= {Limit(path, share.gpu_uuid): Bounds(0, size_bytes) for path in members if path}
        if own:
            found[Limit(own, share.gpu_uuid)] = Bounds(size_bytes, size_bytes)
    return found


class DriverLimits:
    """NVML's memory limits of this node. The caller holds the state's lock while anything is changed."""

    def __init__(self, node: GpuNode, cgroups: Cgroups) -> None:
        self._node = node
        self._cgroups = cgroups
        self._able: dict[str, bool] = {}  # by GPU UUID; a driver does not change while NVML is open
        self._applied: dict[Limit, Bounds] = {}  # by this agent

    def layers(self, gpus: Iterable[Gpu]) -> tuple[MemoryLayer, ...]:
        """What can enforce a quota on any of the cards, strongest first."""
        driver = any(self._can(gpu) for gpu in gpus)
        return (MemoryLayer.DRIVER, MemoryLayer.SHIM) if driver else (MemoryLayer.SHIM,)

    def plan(self, tenant: Tenant, gpus: Iterable[Gpu], *, attached: bool = False, shim_problem: str = "") -> Tenant:
        """The tenant with the strongest layer that it can have.

        ``gpus`` are its cards. A container that is not yet attached will have a cgroup. ``shim_problem`` is why its
        programs cannot load the shim, "" where they can.
        Raises LayerError where that is weaker than what it requires, or nothing would hold it.
        """
        awaits = is_container(tenant) or is_claims(tenant.id, tenant.container)
        has_cgroup = tenant.cgroup != "" or (awaits and not attached)
        unable = next((gpu for gpu in gpus if not self._can(gpu)), None)
        layer = MemoryLayer.DRIVER if has_cgroup and unable is None else MemoryLayer.SHIM
        if layer is not MemoryLayer.DRIVER and (shim_problem or tenant.require_layer is MemoryLayer.DRIVER):
            raise _too_weak(tenant, layer, unable, shim_problem)
        return replace(tenant, memory_layer=layer)

    def apply(self, wanted: Mapping[Limit, Bounds], gpus: Mapping[str, Gpu], *, again: bool = True) -> None:
        """Set the limits. Raises DriverError for the first that is refused.

        ``again`` False: only those that are not what this agent has set, and none of a cgroup that is gone.
        """
        for limit, bounds in wanted.items():
            if limit.gpu_uuid not in gpus or (not again and self._applied.get(limit) == bounds):
                continue
            gpu, folder = gpus[limit.gpu_uuid], self._cgroups.folder(limit.cgroup)
            if folder is not None:
                self._node.set_memory_limit(gpu, folder, *bounds)
                self._applied[limit] = bounds
            elif again:
                raise DriverError(f"GPU {gpu.index} ({gpu.uuid}): cgroup {limit.cgroup} is gone, it cannot be limited")

    def are_set(self, wanted: Mapping[Limit, Bounds]) -> bool:
        """Whether this agent has set all of these."""
        return all(self._applied.get(limit) == bounds for limit, bounds in wanted.items())

    def give_back(self, limits: Iterable[Limit], gpus: Mapping[str, Gpu]) -> None:
        """Keep nothing for these cgroups any more; what they may have at most stays. Raises DriverError."""
        for limit in limits:
            folder = self._cgroups.folder(limit.cgroup)
            if folder is not None and limit.gpu_uuid in gpus:
                gpu = gpus[limit.gpu_uuid]
                hard_bytes = self._applied[limit].hard_bytes if limit in self._applied else gpu.total_bytes
                self._node.set_memory_limit(gpu, folder, 0, hard_bytes)

    def clear(self, limits: Iterable[Limit], gpus: Mapping[str, Gpu]) -> dict[Limit, DriverError]:
        """Take the limits away, soft before hard; those of a cgroup that is gone went with it.

        Returns what could not be cleared.
        """
        failed: dict[Limit, DriverError] = {}
        for limit in limits:
            try:
                self.give_back((limit,), gpus)
                folder = self._cgroups.folder(limit.cgroup)
                if folder is not None and limit.gpu_uuid in gpus:
                    self._node.set_memory_limit(gpus[limit.gpu_uuid], folder, 0, None)
            except DriverError as error:
                if self._cgroups.folder(limit.cgroup) is not None:
                    failed[limit] = error
                    continue
            self._applied.pop(limit, None)
        return failed

    def _can(self, gpu: Gpu) -> bool:
        if gpu.uuid not in self._able:
            folder = self._cgroups.folder(self._cgroups.of(os.getpid())) or self._cgroups.folder("/")
            self._able[gpu.uuid] = folder is not None and not gpu.mig and self._node.limits_memory(gpu, folder)
        return self._able[gpu.uuid]


def _too_weak(tenant: Tenant, layer: MemoryLayer, unable: Gpu | None, shim_problem: str) -> LayerError:
    """``unable`` is a card without limits, None where it is for the lack of a cgroup."""
    cause = (
        f"GPU {unable.index} ({unable.uuid}, driver {unable.driver_version}) has no memory limits of the driver"
        if unable is not None
        else "it has no cgroup of its own"
    )
    needed = "driver r615 or later, cgroup v2, root's agent, and a cgroup for the tenant"
    if shim_problem:
        return LayerError(
            f"the shim cannot be loaded in the image of {tenant.name!r}, and the driver does not hold it either:"
            f" {shim_problem}; {cause}",
            f"use an image with glibc, or the driver layer: it needs {needed}",
        )
    remedy = f"the driver layer needs {needed}"
    if cdi_name_of(tenant.id, tenant.container):
        cause += "; a CDI device is any number of containers'"
        remedy = "use cgpu-runtime with CGPU_REQUIRE_LAYER=driver: there each container is a tenant"
    return LayerError(f"tenant {tenant.name!r} requires the memory layer driver, and gets {layer}: {cause}", remedy)
