"""What callers ask of the node's state, as values, and what follows from it for a tenant. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Final

from cgpu.agent.documents import ProcessRef
from cgpu.model.tenant import MemoryLayer, Share, Tenant
from cgpu.region.reader import GrantsSnapshot
from cgpu.region.writer import Owner

_LAYERS: Final = (MemoryLayer.SHIM, MemoryLayer.DRIVER, MemoryLayer.BROKER)


@dataclass(frozen=True, slots=True)
class ShareChange:
    """What ``cgpu set`` changes; None leaves a value as it is."""

    gpu: str | None = None  # index or UUID; None: every GPU of the tenant
    memory_bytes: int | None = None
    compute_percent: int | None = None
    compute_limit_percent: int | None = None
    weight: int | None = None
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The process that asks for a tenant of its own."""

    process: ProcessRef | None  # the tenant ends with it and its descendants
    owner: Owner = field(default_factory=Owner)


NOBODY: Final = Caller(None)  # the tenant stays until it is removed


def same_wish(known: Tenant, asked: Tenant) -> bool:
    """Whether the same is asked for again; cgroup and memory layer are the agent's choice."""
    return replace(known, cgroup="", memory_layer=asked.memory_layer) == replace(asked, cgroup="")


def changed(share: Share, change: ShareChange) -> Share:
    """The share with what the change names."""
    wanted = {name: value for name, value in asdict(change).items() if name != "gpu" and value is not None}
    return replace(share, **wanted)


def tenant_of(grants: GrantsSnapshot) -> Tenant:
    """The tenant that a region was made for, as far as the region tells."""
    shares = tuple(
        Share(
            row.gpu_uuid,
            row.quota_bytes,
            row.compute_percent or None,
            row.compute_limit_percent or None,
            max(row.weight, 1),
            row.priority,
        )
        for row in grants.gpus
    )
    layer = (
        _LAYERS[grants.gpus[0].memory_layer]
        if grants.gpus and grants.gpus[0].memory_layer < len(_LAYERS)
        else MemoryLayer.SHIM
    )
    return Tenant(grants.tenant_id, grants.tenant_name, shares, "", grants.refuse_managed, layer)
