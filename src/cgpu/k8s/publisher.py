"""Keeps a node's ResourceSlices as they should be, whatever takes them away.

The kubelet deletes a driver's slices when it starts, and when the driver's socket has been gone for a
while: they are watched, and written again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from cgpu.adapters.kube_mirror import Mirror
from cgpu.adapters.kube_objects import NODES, SLICES, Object, ObjectClient
from cgpu.errors import CgpuError
from cgpu.k8s import foreign, names
from cgpu.k8s.isolation import Isolation, Sharing, sharing_of
from cgpu.k8s.manager import Manager
from cgpu.k8s.slice_plan import plan
from cgpu.k8s.slices import Card, devices, dropped_fields

_LOG: Final = logging.getLogger(__name__)
_AGAIN_S: Final = 5.0  # after a failure
_LOOK_S: Final = 300.0  # without any change
_MODULE_S: Final = 5.0  # between two looks for Alibaba's cGPU on the host, which announces itself to nobody
_LEAST_S: Final = 1.0  # between two writes: an order that changes with every claim is written once a second
_DROPPED: Final = (
    "the API server dropped %s from this node's slices: its gate DRAConsumableCapacity is off, so that each card"
    " goes to one pod alone; switch it on (API server, scheduler, kubelet), or run Kubernetes 1.36 or later"
)
_TAINTS: Final = "devices.taints"
_DROPPED_TAINTS: Final = (
    "the API server dropped the taints of cards that are not well: its gate DRADeviceTaints is off, so that these cards"
    " are not offered at all; pods that have one stay"
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
        self,
        api: ObjectClient,
        node: str,
        cards: Cards,
        *,
        adapt: Callable[[Sharing | None], None] = lambda _: None,
        module: Callable[[], str] = lambda: "",
    ) -> None:
        """Where somebody else manages the node's cards, nothing is published; see ``manager``.

        ``adapt`` is called with what the node's labels ask for, whenever that has changed; ``module`` tells
        the sign of Alibaba's cGPU on the host, or "".
        """
        self._api = api
        self._node = node
        self._cards = cards
        self._adapt = adapt
        self._module = module
        self._seen_module = ""
        self._sharing: Sharing | None = None
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._told_dropped = False
        self._without_taints = False  # the API server drops them
        self.manager = Manager(api)
        self._mirrors: tuple[Mirror[Any], ...] = (
            Mirror(api, NODES, _of_node, self.wake, fields=f"metadata.name={node}"),
            Mirror(api, SLICES, _of_slice, self.wake, fields=_on(node)),
        )

    def isolation(self) -> Isolation | None:
        """What the node's labels ask for; None: nothing. Waits, at the start, until they are known."""
        self.manager.wait()
        return self._sharing.isolation if self._sharing else None

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
            self._wait()
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

    def _wait(self) -> None:
        """Until something may have changed."""
        until = time.monotonic() + _LOOK_S
        while not self._changed.wait(_MODULE_S) and time.monotonic() < until:
            if self._module() != self._seen_module:
                return

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
        everybodys, _ = self._api.list(SLICES, fields=_on(self._node))
        existing = [item for item in everybodys if item["spec"]["driver"] == names.DRIVER]
        cards = [] if sharing is None else self._cards.cards()
        if sharing is None or self._is_refused(node, everybodys, cards):
            for item in existing:
                self._api.delete(SLICES, "", item["metadata"]["name"])
            if sharing is None:
                self.manager.left_alone()
            return
        offered = devices(cards, sharing, self._cards.allocated_bytes())
        if self._without_taints:
            offered = [device for device in offered if "taints" not in device]
        todo = plan(existing, self._node, node["metadata"]["uid"], offered)
        for name in todo.delete:
            self._api.delete(SLICES, "", name)
        written = [(item, self._api.update(SLICES, item)) for item in todo.update]
        written += [(item, self._api.create(SLICES, item)) for item in todo.create]
        if written:
            _LOG.info("published %d devices in %d slices", len(offered), len(written))
            self._tell_dropped(written)

    def _is_refused(self, node: Object, everybodys: Iterable[Object], cards: Sequence[Card]) -> bool:
        self._seen_module = self._module()
        others = [one for item in everybodys if (one := foreign.parse_foreign(item)) is not None]
        uuids = [card.gpu.uuid for card in cards]
        other = foreign.managed_by(self._seen_module, foreign.resources_of(node), others, uuids)
        self.manager.found(node, other)
        return bool(other)

    def _tell_dropped(self, written: Iterable[tuple[Mapping[str, Any], Object]]) -> None:
        fields = {field for sent, kept in written for field in dropped_fields(sent, kept)}
        if _TAINTS in fields:
            _LOG.error(_DROPPED_TAINTS)
            self._without_taints = True
            self.wake()
        fields.discard(_TAINTS)
        if fields and not self._told_dropped:
            _LOG.error(_DROPPED, ", ".join(sorted(fields)))
        self._told_dropped = bool(fields)


def _on(node: str) -> str:
    return f"spec.nodeName={node}"


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _of_node(node: Object) -> tuple[Any, ...]:
    """All that matters here: a Node changes with every word of its kubelet."""
    return sorted(_labels(node).items()), foreign.resources_of(node)


def _of_slice(item: Object) -> str:
    return str(item["metadata"]["resourceVersion"])
