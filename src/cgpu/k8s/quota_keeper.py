"""Keeps namespaces within their quotas, exactly, however many claims and webhooks there are at a time.

The reservations of a namespace are an object of its own in the webhook's namespace, a ConfigMap. Who wants
to admit a claim reads it, looks at the claims, and writes it with the new reservation; the API server refuses
the write when another was faster, and then everything is read anew.

A namespace may have thousands of claims, so a copy is looked at that a watch keeps. It may be late. It is counted
with only if it has every claim whose reservation somebody has taken away: beside the reservations stands the
resource version up to which that was done. Before anybody is refused, and where the copy will not do, the claims
are listed.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import CLAIMS, CONFIG_MAPS, ExpiredError, Object, ObjectClient
from cgpu.errors import ClusterError, QuotaError
from cgpu.k8s.claim_check import CLASSES, Asked
from cgpu.k8s.quota import (
    Held,
    Limits,
    Reservation,
    check,
    format_reservations,
    held_of,
    may_count_with_copy,
    parse_reservations,
    reservation,
    reserve,
    seen_of,
    waiting_of,
)

PREFIX: Final = "cgpu-quota-"
"""Of a ConfigMap's name; the rest is the namespace."""

LABEL: Final = "cgpu.dev/quota"
_KEY: Final = "reservations"
_SEEN: Final = "claims-seen"
_LATE_S: Final = 0.1  # for so long a copy that is late is waited for
_PATIENCE_S: Final = 8.0  # less than the API server waits for a webhook
_PAUSE_S: Final = 0.02
_SETTLE_S: Final = 1  # a claim is stored some milliseconds after it was admitted


class QuotaKeeper:
    """Safe for several threads, and for several of them in several processes."""

    def __init__(
        self,
        api: ObjectClient,
        own_namespace: str,
        classes: Collection[str] = CLASSES,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``classes`` are the DeviceClasses of ours; ``now`` says when a reservation that came to nothing ends."""
        self._classes = classes
        self._api = api
        self._own_namespace = own_namespace
        self._now = now
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._claims: Mirror[Held] = Mirror(api, CLAIMS, self._held)

    def stop(self) -> None:
        """Follow the claims no longer."""
        self._claims.stop()

    def admit(self, namespace: str, uid: str, limits: Limits, asked: Asked) -> None:
        """Reserve for a claim that is about to be stored.

        Raises QuotaError: it is beyond a limit; ClusterError: that cannot be found out in time.
        """
        deadline = time.monotonic() + _PATIENCE_S
        # One at a time here: only other processes are to be raced with.
        lock = self._locks[namespace]
        if lock.acquire(timeout=_PATIENCE_S):
            try:
                while time.monotonic() < deadline:
                    if self._try(namespace, uid, limits, asked):
                        return
                    time.sleep(_PAUSE_S * random.random())
            finally:
                lock.release()
        raise ClusterError(f"the quota of namespace {namespace} is busy: too many claims at once", "try again")

    def probe(self, namespace: str, limits: Limits, asked: Asked) -> None:
        """As ``admit``, and nothing is reserved: for a pod, whose claims come later, and for a dry run."""
        copy = self._copied(namespace)
        if copy is not None:
            with contextlib.suppress(QuotaError):
                check(limits, copy.held, copy.waiting, asked)
                return
        now = self._listed(namespace)
        try:
            check(limits, now.held, now.waiting, asked)
        except QuotaError:
            if not now.settle():
                raise
            check(limits, now.held, now.waiting, asked)

    def _try(self, namespace: str, uid: str, limits: Limits, asked: Asked) -> bool:
        """Whether nobody was faster."""
        copy = self._copied(namespace)
        if copy is not None:
            with contextlib.suppress(QuotaError):
                return copy.write(self._reserved(copy, uid, limits, asked))
        now = self._listed(namespace)
        try:
            return now.write(self._reserved(now, uid, limits, asked))
        except QuotaError:
            if not now.settle():
                raise
        try:
            return now.write(self._reserved(now, uid, limits, asked))
        except QuotaError:
            now.write(now.waiting)  # the next one need not find it out again
            raise

    def _copied(self, namespace: str) -> _View | None:
        """By the copy of the claims; None where it will not do."""
        self._claims.start()  # no sooner: most clusters have no quota, and need no copy
        if not self._claims.synced.is_set():
            return None
        stored = _Reservations(self._api, self._own_namespace, namespace)
        if not stored.exist or not self._claims.reached(stored.seen, _LATE_S):
            return None
        version = self._claims.version  # before the claims: a watch from there tells all that comes after them
        held = [claim for (place, _), claim in self._claims.items().items() if place == namespace]
        if not may_count_with_copy(stored.rows, held, self._now()):
            return None
        return _View(self._api, stored, self._classes, self._now(), held, str(version))

    def _listed(self, namespace: str) -> _View:
        """By the claims as they are now."""
        stored = _Reservations(self._api, self._own_namespace, namespace)
        view = _View(self._api, stored, self._classes, self._now())
        view.read()  # after the reservations: see quota.waiting_of
        return view

    def _held(self, claim: Object) -> Held | None:
        held = held_of(claim, self._classes)
        return None if held.asked == Asked() else held

    def _reserved(self, now: _View, uid: str, limits: Limits, asked: Asked) -> list[Reservation]:
        return reserve(limits, now.held, now.waiting, asked, reservation(uid, asked, now.version, self._now()))


class _Reservations:
    """Those of a namespace, as they are stored now."""

    def __init__(self, api: ObjectClient, own_namespace: str, namespace: str) -> None:
        self._api = api
        self._own_namespace = own_namespace
        self.namespace = namespace
        self._found = api.get(CONFIG_MAPS, own_namespace, PREFIX + namespace)
        data = (self._found or {}).get("data") or {}
        self.rows = parse_reservations(data.get(_KEY, "[]"))
        seen = data.get(_SEEN, "")
        self.seen = int(seen) if seen.isdecimal() else 0
        self.exist = self._found is not None and bool(seen)

    def write(self, rows: Sequence[Reservation], seen: int) -> bool:
        """Store others; false: somebody else was faster, or has looked since. Raises ClusterError."""
        document = self._found or {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": PREFIX + self.namespace, "labels": {LABEL: "reservations"}},
        }
        document["data"] = {_KEY: format_reservations(rows), _SEEN: str(seen)}
        try:
            if self._found is None:
                self._api.create(CONFIG_MAPS, document, self._own_namespace)
            else:
                self._api.update(CONFIG_MAPS, document, self._own_namespace)
        except ApiRefusedError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                return False
            raise
        return True


class _View:
    """The claims of a namespace and the reservations there, at one time."""

    def __init__(
        self,
        api: ObjectClient,
        stored: _Reservations,
        classes: Collection[str],
        now: float,
        held: Sequence[Held] = (),
        version: str = "",
    ) -> None:
        """``version`` is that of the claims ``held``."""
        self._api = api
        self._stored = stored
        self._classes = classes
        self._now = now
        self.held = held
        self.version = version
        self.waiting = waiting_of(stored.rows, held, now)

    def read(self) -> None:
        """List the claims."""
        claims, self.version = self._api.list(CLAIMS, self._stored.namespace)
        self.held = [held_of(claim, self._classes) for claim in claims]
        self.waiting = waiting_of(self._stored.rows, self.held, self._now)

    def settle(self) -> bool:
        """Find out which of the waiting claims have come, and perhaps gone again; whether any has.

        A claim that was stored and deleted before anybody looked would otherwise count until its
        reservation ends. A watch tells of both.
        """
        missing = {row.uid for row in self.waiting}
        versions = [int(row.version) for row in self.waiting if row.version.isdecimal()]
        if not versions:
            return False
        with contextlib.suppress(ExpiredError):
            events = self._api.watch(CLAIMS, str(min(versions)), self._stored.namespace, seconds=_SETTLE_S)
            with contextlib.closing(events):
                for _, item in events:
                    missing.discard(item["metadata"].get("uid", ""))
                    if not missing:
                        break
        came = len(missing) < len(self.waiting)
        waiting = [row for row in self.waiting if row.uid in missing]
        self.read()
        self.waiting = waiting
        return came

    def write(self, rows: Sequence[Reservation]) -> bool:
        """Store the reservations; false: somebody else was faster, or has looked since. Raises ClusterError."""
        if not self._stored.exist:  # whoever counts with a copy has to have all that is there now
            return self._stored.write(rows, max((claim.version for claim in self.held), default=0))
        return self._stored.write(rows, seen_of(self._stored.rows, self.held, self._stored.seen))
