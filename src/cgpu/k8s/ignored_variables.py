"""Containers' own CGPU_DISABLE, which says nothing where a claim has given a share: its quota holds. Pods are told.

Told is whoever is seen before the scheduler has placed it, and, by a leader that begins, whoever is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import EVENTS, PODS, ObjectClient
from cgpu.k8s import pending_event
from cgpu.k8s.claim_users import uses_of
from cgpu.k8s.pending_event import Regarding

Object = Mapping[str, Any]
VARIABLE: Final = "CGPU_DISABLE"
REASON: Final = "CgpuDisableIgnored"
_OFF: Final = ("", "0", "false")
_LIVING: Final = "status.phase!=Succeeded,status.phase!=Failed"
_KEPT_S: Final = 60.0  # how long a pod is kept whose claims are not known to be ours


def disabling(pod: Object) -> list[str]:
    """The containers that set the variable and use a claim, whosever. Pure."""
    users = {use.container for use in uses_of(pod)}
    spec = pod.get("spec") or {}
    return [
        container["name"]
        for kind in ("initContainers", "containers")
        for container in spec.get(kind) or ()
        if container["name"] in users and any(_is_on(row) for row in container.get("env") or ())
    ]


def told(containers: list[str]) -> str:
    """What such a pod is told. Pure."""
    which = f"container{'s' if len(containers) > 1 else ''} {', '.join(containers)}"
    return (
        f"{which}: {VARIABLE} is ignored: a share that a claim gives holds, and its quota with it;"
        " take the claim out of a container that is to have no share"
    )


def _is_on(row: Object) -> bool:
    return bool(row["name"] == VARIABLE and ("valueFrom" in row or str(row.get("value") or "").lower() not in _OFF))


@dataclass(frozen=True, slots=True)
class _Seen:
    pod: Regarding
    at: float
    claims: Mapping[str, tuple[str, ...]]
    """Names of ResourceClaims, by container."""


class IgnoredVariables:
    """Tells pods once. ``see`` may be called from another thread."""

    def __init__(self, api: ObjectClient, instance: str, clock: Callable[[], float]) -> None:
        """``instance`` is this process's name in events."""
        self._api = api
        self._instance = instance
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}  # by uid
        self._told: set[str] = set()

    def see(self, pod: Object) -> None:
        """Note a pod that is to be told."""
        containers = disabling(pod)
        metadata = pod["metadata"]
        if not containers or metadata.get("deletionTimestamp"):
            return
        made = dict(_made(pod))
        claims: dict[str, tuple[str, ...]] = dict.fromkeys(containers, ())
        for use in uses_of(pod):
            if use.container in claims and made.get(use.claim):
                claims[use.container] += (made[use.claim],)
        regarding = Regarding(metadata["namespace"], metadata["name"], metadata["uid"])
        with self._lock:
            self._seen[metadata["uid"]] = _Seen(regarding, self._clock(), claims)

    def begin(self) -> None:
        """This process leads from now on: look at all pods that there are. Raises ClusterError."""
        self._told.clear()
        for pod in self._api.each(PODS, fields=_LIVING):
            self.see(pod)

    def forget(self) -> None:
        """Another process leads, and has seen the same."""
        with self._lock:
            self._seen.clear()

    def tell(self, is_ours: Callable[[str, str], bool]) -> None:
        """Write what is due; ``is_ours`` tells whether the claim (namespace, name) is for cards of ours.

        Raises ClusterError.
        """
        with self._lock:
            seen = dict(self._seen)
        for uid, one in seen.items():
            containers = [
                name for name, claims in one.claims.items() if any(is_ours(one.pod.namespace, row) for row in claims)
            ]
            if containers and uid not in self._told:
                self._write(one.pod, told(containers))
                self._told.add(uid)
            if containers or self._clock() > one.at + _KEPT_S:
                self._drop(uid, one)

    def _drop(self, uid: str, one: _Seen) -> None:
        with self._lock:
            if self._seen.get(uid) is one:
                del self._seen[uid]

    def _write(self, pod: Regarding, note: str) -> None:
        event = pending_event.about(pod, self._instance, reason=REASON, action="Sharing", note=note)
        try:
            self._api.create(EVENTS, event, pod.namespace)
        except ApiRefusedError as error:
            # It is there already, or the pod's namespace is about to go.
            if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                raise


def _made(pod: Object) -> Iterator[tuple[str, str]]:
    """The ResourceClaims of a pod that are known, by the pod's names for them."""
    statuses = (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    for row in (*(pod["spec"].get("resourceClaims") or ()), *statuses):
        if row.get("resourceClaimName"):
            yield row["name"], row["resourceClaimName"]
