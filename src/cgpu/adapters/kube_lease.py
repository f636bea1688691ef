"""Who of several processes leads, by a Lease object: the rules and times of Kubernetes' own controllers.

Nobody's wall clock decides: a candidate takes a lease that it has itself seen unchanged for as long as it
lasts, and a leader stops when it has not renewed its own for a shorter time. Source: client-go, leaderelection.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from cgpu.adapters.kube_answers import ApiRefusedError
from cgpu.adapters.kube_objects import Kind, Object, ObjectClient, micro_time
from cgpu.errors import ClusterError

LEASES: Final = Kind("/apis/coordination.k8s.io/v1", "leases", namespaced=True)
_LOG: Final = logging.getLogger(__name__)
_JITTER: Final = 1.2  # a candidate waits up to so much longer, that not all ask at once
_RELEASED_S: Final = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; the defaults are those of Kubernetes' controllers."""

    duration_s: float = 15.0
    """After which others take a lease that is not renewed."""

    deadline_s: float = 10.0
    """After which a leader that could not renew leads no longer."""

    retry_s: float = 2.0


class Election:
    """One candidate. ``run`` in a thread; ``leads`` from any."""

    def __init__(
        self,
        api: ObjectClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity`` is nobody else's; ``clock`` counts seconds."""
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._timing = timing or Timing()
        self._clock = clock
        self._stopping = threading.Event()
        self._renewed: float | None = None
        self._seen: Object | None = None
        self._seen_at = 0.0

    def leads(self) -> bool:
        """Whether it leads at this moment; also when the API server has been silent for too long it does not."""
        renewed = self._renewed
        return renewed is not None and self._clock() < renewed + self._timing.deadline_s

    def run(self, changed: Callable[[], None] = lambda: None) -> None:
        """Lead when it can, until stopped; then give the lease away.

        ``changed`` is called when it begins to lead, and when it does so no more.
        """
        led = False
        while not self._stopping.is_set():
            self.step()
            if self.leads() != led:
                led = not led
                _LOG.info("%s %s", self._identity, "leads" if led else "does not lead any more")
                changed()
            jitter = 1.0 if led else 1.0 + random.random() * _JITTER
            self._stopping.wait(self._timing.retry_s * jitter)
        self._release()

    def stop(self) -> None:
        """End ``run`` soon."""
        self._stopping.set()

    def step(self) -> None:
        """Try once to get or keep the lease."""
        began = self._clock()  # before the lease is written: others count from later on
        try:
            won = self._try(began)
        except ClusterError as error:
            _LOG.warning("the lease %s/%s: %s", self._namespace, self._name, error)
            return  # it leads until its deadline
        if won is not None:
            self._renewed = began if won else None

    def _try(self, now: float) -> bool | None:
        """Whether the lease is its own now; None: the object was changed in between, and the next attempt will tell."""
        lease = self._api.get(LEASES, self._namespace, self._name)
        if lease is None:
            return self._write(self._api.create, self._document({}, None))
        spec = lease.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        holder = spec.get("holderIdentity") or ""
        lasts = self._seen_at + float(spec.get("leaseDurationSeconds") or 0)
        if holder not in ("", self._identity) and now < lasts:
            return False
        return self._write(self._api.update, self._document(spec, lease["metadata"]["resourceVersion"]))

    def _write(self, write: Callable[..., Object], document: Object) -> bool | None:
        try:
            self._seen = write(LEASES, document, self._namespace).get("spec")
        except ApiRefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return None
        self._seen_at = self._clock()
        return True

    def _document(self, spec: Object, version: str | None) -> Object:
        now = micro_time()
        mine = spec.get("holderIdentity") == self._identity
        metadata: dict[str, Any] = {"namespace": self._namespace, "name": self._name}
        if version is not None:
            metadata["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(int(self._timing.duration_s), 1),
                "acquireTime": spec.get("acquireTime", now) if mine else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not mine and version is not None),
            },
        }

    def _release(self) -> None:
        """So that another need not wait until it has run out."""
        if not self.leads():
            return
        self._renewed = None
        try:
            lease = self._api.get(LEASES, self._namespace, self._name)
            if lease is not None and lease["spec"].get("holderIdentity") == self._identity:
                spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": _RELEASED_S}
                self._api.update(LEASES, {**lease, "spec": spec}, self._namespace)
        except ClusterError as error:
            _LOG.warning("the lease %s/%s could not be given away: %s", self._namespace, self._name, error)
