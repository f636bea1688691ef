"""Keeps namespaces within their quotas, exactly, however many claims and webhooks there are at a time.

The reservations of a namespace are an object of its own in the webhook's namespace, a ConfigMap. Who wants
to admit a claim reads it, reads the claims, and writes it with the new reservation; the API server refuses
the write when another was faster, and then everything is read anew.
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
from cgpu.adapters.kube_objects import CLAIMS, CONFIG_MAPS, ExpiredError, ObjectClient
from cgpu.errors import ClusterError, QuotaError
from cgpu.k8s.claim_check import CLASSES, Asked
from cgpu.k8s.quota import (
    Held,
    Limits,
    Reservation,
    check,
    format_reservations,
    held_of,
    parse_reservations,
    reservation,
    reserve,
    waiting_of,
)

PREFIX: Final = "cgpu-quota-"
"""Of a ConfigMap's name; the rest is the namespace."""

LABEL: Final = "cgpu.dev/quota"
_KEY: Final = "reservations"
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
        now = self._look(namespace)
        try:
            check(limits, now.held, now.waiting, asked)
        except QuotaError:
            if not now.settle():
                raise
            check(limits, now.held, now.waiting, asked)

    def _try(self, namespace: str, uid: str, limits: Limits, asked: Asked) -> bool:
        """Whether nobody was faster."""
        now = self._look(namespace)
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

    def _look(self, namespace: str) -> _View:
        return _View(self._api, self._own_namespace, namespace, self._classes, self._now())

    def _reserved(self, now: _View, uid: str, limits: Limits, asked: Asked) -> list[Reservation]:
        return reserve(limits, now.held, now.waiting, asked, reservation(uid, asked, now.version, self._now()))


class _View:
    """The claims of a namespace and the reservations there, as they are now."""

    def __init__(
        self, api: ObjectClient, own_namespace: str, namespace: str, classes: Collection[str], now: float
    ) -> None:
        self._api = api
        self._classes = classes
        self._own_namespace = own_namespace
        self._namespace = namespace
        self._found = api.get(CONFIG_MAPS, own_namespace, PREFIX + namespace)
        text = ((self._found or {}).get("data") or {}).get(_KEY, "[]")
        self.held, self.version = self._read()  # after the reservations: see quota.waiting_of
        self.waiting = waiting_of(parse_reservations(text), self.held, now)

    def _read(self) -> tuple[list[Held], str]:
        claims, version = self._api.list(CLAIMS, self._namespace)
        return [held_of(claim, self._classes) for claim in claims], version

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
            events = self._api.watch(CLAIMS, str(min(versions)), self._namespace, seconds=_SETTLE_S)
            with contextlib.closing(events):
                for _, item in events:
                    missing.discard(item["metadata"].get("uid", ""))
                    if not missing:
                        break
        came = len(missing) < len(self.waiting)
        self.waiting = [row for row in self.waiting if row.uid in missing]
        self.held, self.version = self._read()
        return came

    def write(self, rows: Sequence[Reservation]) -> bool:
        """Store the reservations; false: somebody else was faster, or has looked since. Raises ClusterError."""
        document = self._found or {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": PREFIX + self._namespace, "labels": {LABEL: "reservations"}},
        }
        document["data"] = {_KEY: format_reservations(rows)}
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
