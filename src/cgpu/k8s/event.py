"""What all events of ours have in common, as the API has it (events.k8s.io/v1)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from cgpu.adapters.kube_objects import micro_time

NOTE_MAX: Final = 1024
"""Characters in an event's note."""

_INSTANCE_MAX: Final = 128
_NAME_MAX: Final = 253
_DIGITS: Final = 16


def document(
    regarding: Mapping[str, str],
    said: Mapping[str, str],
    *,
    namespace: str,
    occasion: str,
    controller: str,
    instance: str,
) -> dict[str, Any]:
    """An event.

    Its name is made of the object's name and ``occasion``: whoever writes it a second time is refused.

    Args:
        regarding: the reference to the object: apiVersion, kind, name, uid and, where it has one, namespace.
        said: type, reason, action and note.
        namespace: the event's own.
        occasion: what makes it another event.
        controller: who tells.
        instance: which one of those.
    """
    digest = hashlib.sha256(occasion.encode()).hexdigest()[:_DIGITS]
    name = regarding["name"][: _NAME_MAX - _DIGITS - 1].rstrip("-.")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": f"{name}.{digest}"},
        "eventTime": micro_time(),
        **said,
        "note": said["note"][:NOTE_MAX],
        "regarding": dict(regarding),
        "reportingController": controller,
        "reportingInstance": instance[:_INSTANCE_MAX],
    }
