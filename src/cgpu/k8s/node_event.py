"""Events on a Node: what the agent does with its cards and why, as the API has it. Pure."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cgpu.k8s import names

Object = Mapping[str, Any]
NAMESPACE: Final = "default"
"""Where the API server wants the events of objects that have none."""

_CONTROLLER: Final = f"{names.DRIVER}/agent"
_NAME_MAX: Final = 253
_NOTE_MAX: Final = 1024
_DIGITS: Final = 16


class Reason(enum.StrEnum):
    """Why a node's cards are offered no more, or again."""

    REFUSED = "GpuSharingRefused"  # somebody else manages them
    RESUMED = "GpuSharingResumed"


def document(node: Object, reason: Reason, note: str, occasion: str) -> dict[str, Any]:
    """The event (events.k8s.io/v1).

    Its name is made of the node, the words and the occasion: whoever writes it a second time is refused.
    """
    metadata = node["metadata"]
    digest = hashlib.sha256(f"{metadata['uid']} {reason} {note} {occasion}".encode()).hexdigest()[:_DIGITS]
    name = metadata["name"][: _NAME_MAX - _DIGITS - 1].rstrip("-.")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": NAMESPACE, "name": f"{name}.{digest}"},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "Warning" if reason is Reason.REFUSED else "Normal",
        "reason": reason.value,
        "action": "Publishing",
        "note": note[:_NOTE_MAX],
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": metadata["name"], "uid": metadata["uid"]},
        "reportingController": _CONTROLLER,
        "reportingInstance": metadata["name"][:128],
    }
