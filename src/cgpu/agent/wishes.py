"""What callers ask of the node's state, as values, and what follows from it for a tenant. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeVar

from cgpu.agent.documents import ProcessRef
from cgpu.model.tenant import MemoryLayer, Share, Tenant
from cgpu.region.reader import GrantsSnapshot
from cgpu.region.writer import Owner

_Value = TypeVar("_Value", bound=int | None)
_LAYERS: Final = (MemoryLayer.SHIM, MemoryLayer.DRIVER, MemoryLayer.BROKER)


class Unchanged(enum.Enum):
    """Says of a value that it stays: None is a value of its own."""

    UNCHANGED = enum.auto()


UNCHANGED: Final = Unchanged.UNCHANGED
_Kept = Literal[Unchanged.UNCHANGED]


@dataclass(frozen=True, slots=True)
class ShareChange:
    """What ``cgpu set`` changes."""

    gpu: str | None = None  # index or UUID; None: every GPU of the tenant
    memory_bytes: int | _Kept = UNCHANGED
    compute_percent: int | _Kept | None = UNCHANGED  # None: none from now on
    compute_limit_percent: int | _Kept | None = UNCHANGED  # None: no cap from now on
    weight: int | _Kept = UNCHANGED
    priority: int | _Kept = UNCHANGED


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
    return replace(
        share,
        memory_bytes=_chosen(change.memory_bytes, share.memory_bytes),
        compute_percent=_chosen(change.compute_percent, share.compute_percent),
        compute_limit_percent=_chosen(change.compute_limit_percent, share.compute_limit_percent),
        weight=_chosen(change.weight, share.weight),
        priority=_chosen(change.priority, share.priority),
    )


def _chosen(wanted: _Value | _Kept, now: _Value) -> _Value:
    return now if wanted is UNCHANGED else wanted


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
