"""Keeps a node's ResourceSlices as they should be, whatever takes them away.

The kubelet deletes a driver's slices when it starts, and when the driver's socket has been gone for a
while: they are watched, and written again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import NODES, SLICES, Object, ObjectClient
from cgpu.errors import CgpuError
from cgpu.k8s import names
from cgpu.k8s.isolation import Sharing, sharing_of
from cgpu.k8s.slice_plan import plan
from cgpu.k8s.slices import Card, devices, dropped_fields

_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 5.0  # after a failure
_LOOK_S: Final = 300.0  # without any change: what a card says of itself, such as its policy, is not announced here
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
        self._mirrors: tuple[Mirror[Any], ...] = (
            Mirror(api, NODES, _labels, self.wake, fields=f"metadata.name={node}"),
            Mirror(api, SLICES, _version, self.wake, fields=_fields(node)),
        )

    def wake(self) -> None:
        """Something may have changed."""
        self._changed.set()

    def stop(self) -> None:
        """End ``run`` soon. The slices stay, as the pods that use them do."""
        self._stopping.set()
        for mirror in self._mirrors:
            mirror.stop()
        self._changed.set()

    def run(self) -> None:
        """Publish, and again after every change, until stopped."""
        for mirror in self._mirrors:
            mirror.start()
        self._changed.set()
        while not self._stopping.is_set():
            self._changed.wait(_LOOK_S)
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
        sharing = sharing_of(_labels(node))
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


def _fields(node: str) -> str:
    return f"spec.nodeName={node},spec.driver={names.DRIVER}"


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _version(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])
