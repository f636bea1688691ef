"""The event on a pod that waits for shares of GPUs, as the API has it. Pure.

Its name is made of the pod and the words: whoever writes the same a second time is refused, so that nothing
is said twice, whatever leaders do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cgpu.k8s import names
from cgpu.k8s.pending_note import Reason

Object = Mapping[str, Any]
REASON: Final = "GpuShareUnavailable"
CONTROLLER: Final = f"{names.DRIVER}/controller"
SELECTOR: Final = f"reason={REASON},reportingController={CONTROLLER}"
"""A field selector for all events of this kind."""

SAME_LIMIT_S: Final = 60.0
"""Within which a pod is not told anew where only the numbers of a reason have changed."""

FRESH_S: Final = 1800.0
"""After which a reason that still holds is said again in its event: the API server drops it after an hour."""

_LIMITS: Final = f"{names.DRIVER}/limits"
_INSTANCE_MAX: Final = 128
_NAME_MAX: Final = 253
_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Regarding:
    """A pod."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a pod has been told last."""

    note: str
    kinds: tuple[str, ...]
    at: float  # by the clock of whoever keeps it, in seconds


def is_due(reason: Reason, told: Told | None, now: float) -> bool:
    """Whether a pod is to be told, now that this is the reason and that is what it was told last."""
    if told is None:
        return True
    if told.note == reason.note:
        return now >= told.at + FRESH_S
    return told.kinds != reason.kinds or now >= told.at + SAME_LIMIT_S


def document(pod: Regarding, reason: Reason, instance: str) -> dict[str, Any]:
    """The event (events.k8s.io/v1)."""
    event = about(pod, instance, reason=REASON, action="Scheduling", note=reason.note)
    event["metadata"]["annotations"] = {_LIMITS: ",".join(reason.kinds)}
    return event


def about(pod: Regarding, instance: str, *, reason: str, action: str, note: str) -> dict[str, Any]:
    """A warning of ours on a pod."""
    digest = hashlib.sha256(f"{pod.uid} {note}".encode()).hexdigest()[:_DIGITS]
    name = pod.name[: _NAME_MAX - _DIGITS - 1].rstrip("-.")
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": pod.namespace, "name": f"{name}.{digest}"},
        "eventTime": _now(),
        "type": "Warning",
        "reason": reason,
        "action": action,
        "note": note,
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:_INSTANCE_MAX],
    }


def said_again(event: Object) -> dict[str, Any]:
    """The change of an event that says that it happened once more, which also keeps it for another hour."""
    count = int((event.get("series") or {}).get("count") or 1) + 1
    return {"series": {"count": count, "lastObservedTime": _now()}}


def told_by(events: Iterable[Object], now: float) -> dict[str, Told]:
    """What these events have told, by the pods' uids; the newest of a pod counts, as if it had been told now."""
    newest: dict[str, tuple[str, Told]] = {}
    for event in events:
        uid = (event.get("regarding") or {}).get("uid") or ""
        time = (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime") or ""
        limits = (event["metadata"].get("annotations") or {}).get(_LIMITS, "")
        if uid and (uid not in newest or newest[uid][0] < time):
            newest[uid] = (time, Told(event.get("note") or "", tuple(filter(None, limits.split(","))), now))
    return {uid: told for uid, (_, told) in newest.items()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
