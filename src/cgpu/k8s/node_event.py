"""Events on a Node: what the agent does with its cards and why."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from cgpu.k8s import event, names

Object = Mapping[str, Any]
NAMESPACE: Final = "default"
"""Where the API server wants the events of objects that have none."""

_CONTROLLER: Final = f"{names.DRIVER}/agent"


class Reason(enum.StrEnum):
    """Why a node's cards are offered no more, or again."""

    REFUSED = "GpuSharingRefused"  # somebody else manages them
    RESUMED = "GpuSharingResumed"


def document(node: Object, reason: Reason, note: str, occasion: str) -> dict[str, Any]:
    """The event.

    Its name is made of the node, the words and the occasion: whoever writes it a second time is refused.
    """
    name, uid = node["metadata"]["name"], node["metadata"]["uid"]
    kind = "Warning" if reason is Reason.REFUSED else "Normal"
    return event.document(
        {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid},
        {"type": kind, "reason": reason.value, "action": "Publishing", "note": note},
        namespace=NAMESPACE,
        occasion=f"{uid} {reason} {note} {occasion}",
        controller=_CONTROLLER,
        instance=name,
    )
