"""Facts of our own agent: whether one manages the node, and which tenants it has."""

from __future__ import annotations

from collections import Counter
from typing import Final

from cgpu.doctor.facts import Fact
from cgpu.doctor.probes import files
from cgpu.doctor.probes.node import Node
from cgpu.doctor.probes.software import json_object
from cgpu.doctor.probes.tree import UnknownError

_VERSION: Final = 1  # of the checkpoint


def agent(node: Node) -> Fact:
    """Whether its socket is there, or tenants that a dead one has left, which the next takes over."""
    if node.tree.exists(files.AGENT_SOCKET):
        return Fact(value=True, how=f"/{files.AGENT_SOCKET}")
    if node.tree.exists(files.CHECKPOINT) and _tenants(node):
        return Fact(value=True, how=f"/{files.CHECKPOINT}: tenants without an agent")
    _require_node(node, files.AGENT_SOCKET)
    return Fact(value=False, how=f"/{files.AGENT_SOCKET}: no such file")


def tenants_per_gpu(node: Node) -> Fact:
    """The tenants of each GPU that has some, as the agent wrote them down at the last change."""
    if node.tree.exists(files.CHECKPOINT):
        return Fact(_tenants(node), f"/{files.CHECKPOINT}")
    _require_node(node, files.CHECKPOINT)
    return Fact({}, f"/{files.CHECKPOINT}: no such file")


def _require_node(node: Node, path: str) -> None:
    if not node.is_there():
        raise UnknownError(f"/{path}: no such file", absent=True)


def _tenants(node: Node) -> dict[str, int]:
    counts = tenants_of_checkpoint(node.text(files.CHECKPOINT))
    if counts is None:
        raise UnknownError(f"/{files.CHECKPOINT}: not a checkpoint of version {_VERSION}")
    return counts


def tenants_of_checkpoint(text: str) -> dict[str, int] | None:
    """Tenants by GPU UUID; None of what the agent cannot have written."""
    document = json_object(text)
    if document is None or document.get("version") != _VERSION or not isinstance(document.get("tenants"), list):
        return None
    counts: Counter[str] = Counter()
    try:
        for record in document["tenants"]:  # type: ignore[attr-defined]
            counts.update({str(share["gpu_uuid"]) for share in record["tenant"]["shares"]})
    except (TypeError, KeyError, IndexError):
        return None
    return dict(counts)
