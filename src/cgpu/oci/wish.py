"""A container's request as the agent's: which cards are meant, and how many bytes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cgpu.errors import NoSuchGpuError, RefusedError
from cgpu.oci.amount import Part
from cgpu.oci.environment import ALL, Request


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask the agent for, and what the container then sees."""

    body: dict[str, Any]  # of PUT /v1/tenants/ID
    visible: tuple[str, ...]  # UUIDs of all its GPUs, the sliced ones first


def wish_of(request: Request, container_id: str, gpus: Sequence[Mapping[str, Any]]) -> Wish:
    """The wish on this node's cards, the rows of ``GET /v1/gpus``.

    Raises NoSuchGpuError for a card that is not here, RefusedError for a part that is none of it.
    """
    sliced = {row["uuid"]: row for name in request.sliced for row in _rows(name, gpus)}
    native = {row["uuid"]: row for name in request.native for row in _rows(name, gpus)}
    body: dict[str, Any] = {
        "shares": [_share(request, row) for row in sliced.values()],
        "refuse_managed": request.refuse_managed,
        "lifetime": "caller",
        "container": container_id,
    }
    if request.name:
        body["name"] = request.name
    if request.require_layer:
        body["require_layer"] = request.require_layer
    return Wish(body, tuple({**sliced, **native}))


def _rows(name: str, gpus: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    rows = [row for row in gpus if name in (ALL, str(row["index"]), row["uuid"])]
    if not rows:
        known = ", ".join(f"{row['index']} ({row['uuid']})" for row in gpus) or "none"
        raise NoSuchGpuError(f"there is no GPU {name!r} on this node", f"GPUs here: {known}")
    return rows


def _share(request: Request, row: Mapping[str, Any]) -> dict[str, Any]:
    memory = request.memory
    try:
        amount = memory.bytes_of(row["total_bytes"]) if isinstance(memory, Part) else memory
    except RefusedError as error:
        raise RefusedError(f"GPU {row['index']}: {error.message}", error.remedy) from error
    share = {"gpu": row["uuid"], "memory_bytes": amount, "weight": request.weight, "priority": request.priority}
    if request.compute_percent is not None:
        share["compute_percent"] = request.compute_percent
    if request.compute_limit_percent is not None:
        share["compute_limit_percent"] = request.compute_limit_percent
    return share
