"""Tells pods that wait for shares of GPUs why: an event on the pod, once per change of the reason, from one leader.

The same leader tells pods of what they ask for in vain (``ignored_variables``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import CLAIMS, EVENTS, NODES, PODS, SLICES, ObjectClient
from cgpu.errors import CgpuError
from cgpu.k8s import names, pending_event
from cgpu.k8s.allocations import Use, parse_uses, picture
from cgpu.k8s.asks import ClaimAsk, claims_of, parse_asks
from cgpu.k8s.ignored_variables import IgnoredVariables
from cgpu.k8s.offers import parse_slice
from cgpu.k8s.pending import PodPlace, is_unschedulable, parse_node, parse_place, shortage
from cgpu.k8s.pending_event import Regarding, Told
from cgpu.k8s.pending_note import Reason, reason_of

Object = Mapping[str, Any]
_LOG: Final = logging.getLogger(__name__)
_SETTLE_S: Final = 0.5  # after a change: the scheduler and the mirrors are to have seen it all
_AGAIN_S: Final = 5.0  # after a failure
_IDLE_S: Final = 30.0  # after which it looks although nothing has happened: time alone may have made something due
_ROUND_MAX: Final = 50
"""Events in one round, so that the API server has room for others."""

_UNPLACED: Final = "spec.nodeName=,status.phase=Pending"


@dataclass(frozen=True, slots=True)
class _Claim:
    uses: tuple[Use, ...]
    ask: ClaimAsk | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    pod: Regarding
    claims: tuple[str, ...]
    place: PodPlace


class Explainer:
    """``run`` in a thread; ``wake`` when it begins or ends to lead."""

    def __init__(
        self,
        api: ObjectClient,
        leads: Callable[[], bool],
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``leads`` says whether this process is the one that writes; ``instance`` is its name in events."""
        self._api = api
        self._leads = leads
        self._instance = instance
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._told: dict[str, Told] | None = None  # by pods' uids; None: not known what has been told
        fields = f"spec.driver={names.DRIVER}"
        self._slices = Mirror(api, SLICES, parse_slice, self.wake, fields=fields)
        self._claims = Mirror(api, CLAIMS, _claim, self.wake)
        self._nodes = Mirror(api, NODES, parse_node, self.wake)
        self._pods = Mirror(api, PODS, self._pod, self.wake, fields=_UNPLACED)
        self._ignored = IgnoredVariables(api, instance, clock)
        self._mirrors: Sequence[Mirror[Any]] = (self._slices, self._claims, self._nodes, self._pods)

    def wake(self) -> None:
        """Something has changed."""
        self._wake.set()

    def stop(self) -> None:
        """End ``run`` soon."""
        self._stopping.set()
        for mirror in self._mirrors:
            mirror.stop()
        self._wake.set()

    def run(self) -> None:
        """Look at all waiting pods after every change, until stopped."""
        for mirror in self._mirrors:
            mirror.start()
        while not self._stopping.is_set():
            self._wake.wait(_IDLE_S)
            self._stopping.wait(_SETTLE_S)
            self._wake.clear()
            try:
                self.look()
            except CgpuError as error:
                if not self._stopping.is_set():
                    _LOG.warning("pods that wait are not told why: %s", error)
                self._stopping.wait(_AGAIN_S)
                self._wake.set()

    def look(self) -> None:
        """One round. Raises ClusterError."""
        if not self._leads() or not all(mirror.synced.is_set() for mirror in self._mirrors):
            self._told = None
            self._ignored.forget()
            return
        if self._told is None:
            self._ignored.begin()
            events, _ = self._api.list(EVENTS, fields=pending_event.SELECTOR)
            self._told = pending_event.told_by(events, self._clock())
        self._ignored.tell(lambda namespace, claim: self._claims.get(namespace, claim) is not None)
        waiting = self._pods.items().values()
        there = {one.pod.uid for one in waiting}
        self._told = {uid: told for uid, told in self._told.items() if uid in there}
        written = 0
        for pod, reason in self._reasons(waiting):
            if written >= _ROUND_MAX:
                self._wake.set()
                return
            written += self._tell(pod, reason, self._told)

    def _pod(self, pod: Object) -> _Waiting | None:
        self._ignored.see(pod)
        return _waiting(pod)

    def _reasons(self, waiting: Iterable[_Waiting]) -> list[tuple[Regarding, Reason]]:
        """Pods of the same form have the same reason: it is found once."""
        claims = self._claims.items()
        seen = picture(self._slices.items().values(), (use for claim in claims.values() for use in claim.uses))
        nodes = {facts.name: facts for facts in self._nodes.items().values()}
        known: dict[Any, Reason | None] = {}
        found = []
        for one in waiting:
            asks = [claim.ask for name in one.claims if (claim := claims.get((one.pod.namespace, name))) and claim.ask]
            key = (tuple((ask.requests, ask.pools) for ask in asks), repr(one.place))
            if key not in known:
                lacking = shortage(asks, one.place, seen, nodes)
                known[key] = None if lacking is None else reason_of(lacking)
            reason = known[key]
            if reason is not None:
                found.append((one.pod, reason))
        return found

    def _tell(self, pod: Regarding, reason: Reason, told: dict[str, Told]) -> bool:
        """Whether something was written."""
        now, last = self._clock(), told.get(pod.uid)
        if not pending_event.is_due(reason, last, now) or not self._leads():
            return False
        self._write(pod, reason, again=last is not None)
        told[pod.uid] = Told(reason.note, reason.kinds, now)
        return True

    def _write(self, pod: Regarding, reason: Reason, *, again: bool) -> None:
        """Raises ClusterError where another attempt may help."""
        document = pending_event.document(pod, reason, self._instance)
        name = document["metadata"]["name"]
        try:
            try:
                self._api.create(EVENTS, document, pod.namespace)
            except ApiRefusedError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
                # The event is there: of an earlier time, or written by a leader before this one just now.
                present = self._api.get(EVENTS, pod.namespace, name) if again else None
                if present is not None:
                    self._api.merge(EVENTS, pod.namespace, name, pending_event.said_again(present))
        except ApiRefusedError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise
            _LOG.warning("pod %s/%s is not told why it waits: %s", pod.namespace, pod.name, error)


def _claim(item: Object) -> _Claim | None:
    uses, ask = parse_uses(item), parse_asks(item)
    return _Claim(uses, ask) if uses or ask else None


def _waiting(pod: Object) -> _Waiting | None:
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp") or not pod["spec"].get("resourceClaims") or not is_unschedulable(pod):
        return None
    claims = claims_of(pod)
    if not claims:
        return None
    regarding = Regarding(metadata["namespace"], metadata["name"], metadata["uid"])
    return _Waiting(regarding, tuple(claims), parse_place(pod))
