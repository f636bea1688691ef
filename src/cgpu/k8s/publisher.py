"""Keeps a node's ResourceSlices as they should be, whatever takes them away.

The kubelet deletes a driver's slices when it starts, and when the driver's socket has been gone for a
while: they are watched, and written again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from cgpu.adapters.kube_objects import NODES, SLICES, ExpiredError, Object, ObjectClient
from cgpu.errors import CgpuError
from cgpu.k8s import names
from cgpu.k8s.isolation import Sharing, sharing_of
from cgpu.k8s.slice_plan import plan
from cgpu.k8s.slices import Card, devices, dropped_fields

_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 5.0  # after a failure
_LEAST_S: Final = 1.0  # between two writes: an order that changes with every claim is written once a second
_DROPPED: Final = (
    "the API server dropped %s from this node's slices: its gate DRAConsumableCapacity is off, so that each card"
    " goes to one pod alone; switch it on (API server, scheduler, kubelet), or run Kubernetes 1.36 or later"
)


class Cards(Protocol):
    """The node's cards as they are now."""

    def cards(self) -> list[Card]:
        """All of them. Raises CgpuError."""

    def allocated_bytes(self) -> Mapping[str, int]:
        """Memory that claims have been given, by the card's UUID."""


class Publisher:
    """One node's slices. ``run`` in a thread; ``wake`` after anything that may change them."""

    def __init__(
        self, api: ObjectClient, node: str, cards: Cards, *, adapt: Callable[[Sharing | None], None] = lambda _: None
    ) -> None:
        """``adapt`` is called with what the node's labels ask for, whenever that has changed."""
        self._api = api
        self._node = node
        self._cards = cards
        self._adapt = adapt
        self._sharing: Sharing | None = None
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._told_dropped = False

    def wake(self) -> None:
        """Something may have changed."""
        self._changed.set()

    def stop(self) -> None:
        """End ``run`` soon. The slices stay, as the pods that use them do."""
        self._stopping.set()
        self._changed.set()

    def run(self) -> None:
        """Publish, and again after every change, until stopped."""
        for watch in (self._watch_node, self._watch_slices):
            threading.Thread(target=self._keep, args=(watch,), name="watch", daemon=True).start()
        self._changed.set()
        while not self._stopping.is_set():
            self._changed.wait()
            self._changed.clear()
            if self._stopping.is_set():
                return
            try:
                self.publish()
            except CgpuError as error:
                _LOG.warning("the slices of %s are not published: %s", self._node, error)
                self._changed.set()
                self._stopping.wait(_AGAIN_S)
            else:
                self._stopping.wait(_LEAST_S)

    def publish(self) -> None:
        """Write what is to be written now. Raises CgpuError."""
        node = self._api.get(NODES, "", self._node)
        if node is None:
            return  # it is gone, and its slices with it
        sharing = sharing_of(node["metadata"].get("labels") or {})
        if sharing != self._sharing:
            _LOG.info("node %s: %s", self._node, f"shared, {sharing.isolation}" if sharing else "left alone")
            self._sharing = sharing
            self._adapt(sharing)
        existing, _ = self._api.list(SLICES, fields=_fields(self._node))
        if sharing is None:
            for item in existing:
                self._api.delete(SLICES, "", item["metadata"]["name"])
            return
        offered = devices(self._cards.cards(), sharing, self._cards.allocated_bytes())
        todo = plan(existing, self._node, node["metadata"]["uid"], offered)
        for name in todo.delete:
            self._api.delete(SLICES, "", name)
        written = [(item, self._api.update(SLICES, item)) for item in todo.update]
        written += [(item, self._api.create(SLICES, item)) for item in todo.create]
        if written:
            _LOG.info("published %d devices in %d slices", len(offered), len(written))
            self._tell_dropped(written)

    def _tell_dropped(self, written: Iterable[tuple[Mapping[str, Any], Object]]) -> None:
        fields = sorted({field for sent, kept in written for field in dropped_fields(sent, kept)})
        if fields and not self._told_dropped:
            _LOG.error(_DROPPED, ", ".join(fields))
        self._told_dropped = bool(fields)

    def _keep(self, watch: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            try:
                watch()
            except ExpiredError:
                pass
            except CgpuError as error:
                if not self._stopping.is_set():
                    _LOG.warning("%s", error)
                self._stopping.wait(_AGAIN_S)
            self._changed.set()  # what happened between two watches

    def _watch_node(self) -> None:
        fields = f"metadata.name={self._node}"
        found, version = self._api.list(NODES, fields=fields)
        labels = found[0]["metadata"].get("labels") if found else None
        for _, node in self._api.watch(NODES, version, fields=fields):
            now = node["metadata"].get("labels")
            if now != labels:
                labels = now
                self._changed.set()

    def _watch_slices(self) -> None:
        fields = _fields(self._node)
        _, version = self._api.list(SLICES, fields=fields)
        for change, _ in self._api.watch(SLICES, version, fields=fields):
            if change != "BOOKMARK":
                self._changed.set()


def _fields(node: str) -> str:
    return f"spec.nodeName={node},spec.driver={names.DRIVER}"
