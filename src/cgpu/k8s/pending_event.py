"""The event on a pod that waits for shares of GPUs, as the API has it. Pure.

Its name is made of the pod and the words: whoever writes the same a second time is refused, so that nothing
is said twice, whatever leaders do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cgpu.adapters.kube_objects import micro_time
from cgpu.k8s import event, names
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
    """The event."""
    made = about(pod, instance, reason=REASON, action="Scheduling", note=reason.note)
    made["metadata"]["annotations"] = {_LIMITS: ",".join(reason.kinds)}
    return made


def about(pod: Regarding, instance: str, *, reason: str, action: str, note: str) -> dict[str, Any]:
    """A warning of ours on a pod."""
    return event.document(
        {"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid},
        {"type": "Warning", "reason": reason, "action": action, "note": note},
        namespace=pod.namespace,
        occasion=f"{pod.uid} {note}",
        controller=CONTROLLER,
        instance=instance,
    )


def said_again(before: Object) -> dict[str, Any]:
    """The change of an event that says that it happened once more, which also keeps it for another hour."""
    count = int((before.get("series") or {}).get("count") or 1) + 1
    return {"series": {"count": count, "lastObservedTime": micro_time()}}


def told_by(events: Iterable[Object], now: float) -> dict[str, Told]:
    """What these events have told, by the pods' uids; the newest of a pod counts, as if it had been told now."""
    newest: dict[str, tuple[str, Told]] = {}
    for one in events:
        uid = (one.get("regarding") or {}).get("uid") or ""
        time = (one.get("series") or {}).get("lastObservedTime") or one.get("eventTime") or ""
        limits = (one["metadata"].get("annotations") or {}).get(_LIMITS, "")
        if uid and (uid not in newest or newest[uid][0] < time):
            newest[uid] = (time, Told(one.get("note") or "", tuple(filter(None, limits.split(","))), now))
    return {uid: told for uid, (_, told) in newest.items()}
